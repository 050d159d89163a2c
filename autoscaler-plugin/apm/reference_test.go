package apm

import (
	"maps"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"aliquot.example/internal/query"
	"aliquot.example/internal/reference"
)

// docs/configuration.md lists every setting, and setting one to its default changes nothing.
func TestDocumentedSettings(t *testing.T) {
	// The error about an unknown setting lists all known ones.
	_, err := readConfig(map[string]string{"nothing": "x"})
	if err == nil {
		t.Fatal("an unknown setting is accepted")
	}
	_, names, _ := strings.Cut(err.Error(), "want one of ")
	want := map[string]string{}
	for _, name := range strings.Split(names, ", ") {
		want[name] = ""
	}
	plain, err := readConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, setting := range reference.Compare(t, "aliquot-apm", want) {
		if setting.Default == "" {
			continue
		}
		c, err := readConfig(map[string]string{name: setting.Text()})
		if err != nil || !reflect.DeepEqual(c, plain) {
			t.Errorf("%s = %s is not the default: %+v, %v", name, setting.Default, c, err)
		}
	}
	// Another value must change the configuration, otherwise the key is not read.
	other := maps.Clone(want)
	for name := range other {
		value := "7s"
		switch name {
		case "prometheus_address":
			value = "http://127.0.0.1:9090"
		case "learn_speed":
			value = "false"
		}
		if strings.HasPrefix(name, "consul_") || name == "prometheus_token_file" {
			continue // tested elsewhere, or a file that must exist
		}
		c, err := readConfig(map[string]string{name: value})
		if err != nil || reflect.DeepEqual(c, plain) {
			t.Errorf("%s = %s changes nothing: %v", name, value, err)
		}
	}
}

// Every query in docs/scaling.md is valid.
func TestDocumentedQueries(t *testing.T) {
	page, err := os.ReadFile("../../docs/scaling.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "## Queries\n")
	text, _, _ = strings.Cut(text, "\n## ")
	found := map[query.Metric]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(text, -1) {
		q, err := query.Parse(m[1])
		if err != nil {
			t.Errorf("%s: %v", m[1], err)
		}
		found[q.Metric] = true
	}
	for _, metric := range []query.Metric{query.Concurrency, query.Load, query.Queued, query.Active, query.Tokens, query.Arriving, query.Attained, query.Above, query.Placed, query.Blocked, query.Free, query.Nodes} {
		if !found[metric] {
			t.Errorf("no query of %s is documented", metric)
		}
	}
}
