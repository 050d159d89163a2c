package scale

import (
	"reflect"
	"slices"
	"testing"

	"aliquot.example/internal/reference"
)

// docs/configuration.md lists every setting, and setting one to its default changes nothing.
func TestDocumentedSettings(t *testing.T) {
	want := map[string]string{}
	for _, name := range slices.Concat(sorted((&Policy{}).fields()), others) {
		want[name] = ""
	}
	plain, err := ParseConfig(map[string]string{"slots": "2"})
	if err != nil {
		t.Fatal(err)
	}
	for name, setting := range reference.Compare(t, "A policy's strategy", want) {
		if setting.Default == "" {
			continue
		}
		c, err := ParseConfig(map[string]string{"slots": "2", name: setting.Text()})
		if err != nil || !reflect.DeepEqual(c, plain) {
			t.Errorf("%s = %s is not the default: %+v, %v", name, setting.Default, c, err)
		}
	}
}
