package driver

import (
	"reflect"
	"strings"
	"testing"

	"aliquot.example/internal/reference"
)

// docs/configuration.md has every key of the document of wanted drivers, and no other.
func TestEveryKeyIsDocumented(t *testing.T) {
	page := reference.Section(t, "Drivers of nodes")
	keys := map[string]bool{}
	for prefix, of := range map[string]reflect.Type{"": reflect.TypeFor[Wanted](), "classes.": reflect.TypeFor[Want]()} {
		for i := range of.NumField() {
			name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
			if name != "classes" {
				keys[prefix+name] = true
			}
		}
	}
	for key := range keys {
		if _, ok := page[key]; !ok {
			t.Errorf("docs/configuration.md lacks %s", key)
		}
	}
	for key := range page {
		if !keys[key] {
			t.Errorf("docs/configuration.md has %s, which is no key", key)
		}
	}
}
