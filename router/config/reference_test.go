package config

import (
	"reflect"
	"testing"

	"aliquot.example/internal/reference"
)

// docs/configuration.md lists every key, and writing its default changes nothing.
func TestTheReferenceIsThatOfTheRouter(t *testing.T) {
	schema := reflect.TypeFor[fileBody]()
	page := reference.Compare(t, "Router", reference.Keys(schema))
	beside := map[string]string{
		"service.rule":        "path_prefix = \"/x\"\nclasses = [\"h100\"]\n",
		"service.rule.header": "exact = \"x\"\n",
	}
	for key, setting := range page {
		if setting.Default == "" {
			continue
		}
		with, err := Parse([]byte(reference.Write(schema, key, setting.Default, beside)), "reference.hcl")
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		without, err := Parse([]byte(reference.Write(schema, key, "", beside)), "reference.hcl")
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(with, without) {
			t.Errorf("%s = %s is not the default: %+v and %+v", key, setting.Default, with, without)
		}
	}
}
