package config

import (
	"reflect"
	"strings"
	"testing"

	"aliquot.example/internal/dispatch"
	"aliquot.example/internal/reference"
)

// docs/configuration.md lists every key, and writing a key's default changes nothing.
func TestTheReferenceIsThatOfTheGateway(t *testing.T) {
	schema := reflect.TypeFor[fileBody]()
	page := reference.Compare(t, "Gateway", reference.Keys(schema))
	const replica = "replica {\n  address = \"127.0.0.1:1\"\n}\n"
	for key, setting := range page {
		if setting.Default == "" {
			continue
		}
		beside := map[string]string{
			"listen": "address = \":8080\"\n", "admin": "address = \"127.0.0.1:0\"\n",
			"peers": "address = \"127.0.0.1:7070\"\ncert_file = \"c\"\nkey_file = \"k\"\nca_file = \"a\"\n", "service": replica,
			"service.replica": "address = \"127.0.0.1:2\"\n", "service.wake": "target {\n  job = \"j\"\n  group = \"g\"\n  cost = 1\n}\n",
		}
		block, name := "", key
		if i := strings.LastIndexByte(key, '.'); i >= 0 {
			block, name = key[:i], key[i+1:]
		}
		if strings.HasPrefix(key, "service.replica.") {
			beside["service"] = ""
		}
		if !strings.HasPrefix(key, "service.") {
			beside[""] = "service \"s\" {\n" + replica + "}\n"
		}
		if name == "address" { // required in its block
			delete(beside, block)
		}
		with := reference.Write(schema, key, setting.Default, beside)
		without := reference.Write(schema, key, "", beside)
		if name == "address" {
			without = beside[""]
		}
		if a, b := effective(t, without), effective(t, with); !reflect.DeepEqual(a, b) {
			t.Errorf("%s = %s is not the default: %+v and %+v", key, setting.Default, a, b)
		}
	}
}

// effective parses a configuration and removes settings whose defaults the queue's policy fills in;
// that package compares them with the page.
func effective(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse([]byte(text), "reference.hcl")
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for i := range c.Services {
		c.Services[i].Queue.Eject = dispatch.Ejection{}
	}
	return c
}

// A block without one of the keys that the page calls required is rejected.
func TestRequiredKeysAreRequired(t *testing.T) {
	schema := reflect.TypeFor[fileBody]()
	for key, setting := range reference.Section(t, "Gateway") {
		if !setting.Required {
			continue
		}
		beside := map[string]string{}
		if !strings.HasPrefix(key, "service.replica.") {
			beside["service"] = "replica {\n  address = \"127.0.0.1:1\"\n}\n"
		}
		text := reference.Write(schema, key, "", beside)
		if _, err := Parse([]byte(text), "reference.hcl"); err == nil {
			t.Errorf("%s is called required and is not:\n%s", key, text)
		}
	}
}
