package plugin

import (
	"reflect"
	"strings"
	"testing"

	"aliquot.example/internal/reference"
	"aliquot.example/internal/share"
)

// docs/configuration.md lists every key that both vendors have, and writing its
// default changes nothing.
func TestTheReferenceIsThatOfBothVendors(t *testing.T) {
	want := map[string]string{}
	for _, k := range keys {
		want[k.Name] = ""
	}
	for _, k := range gpuKeys {
		want["gpu."+k.Name] = ""
	}
	for _, k := range packingKeys {
		want["packing."+k.Name] = ""
	}
	m := Maker{Modes: []share.Mode{share.Shared, share.Whole, share.Off}}
	effective := func(raw map[string]any) Config {
		c, err := m.Config(raw)
		if err != nil {
			t.Fatal(err)
		}
		c.Settings = nil
		return c
	}
	for key, setting := range reference.Compare(t, "Device plugins", want) {
		if setting.Default == "" {
			continue
		}
		plain, with := map[string]any{}, map[string]any{}
		if name, ok := strings.CutPrefix(key, "gpu."); ok {
			plain["gpu"] = map[string]any{"*": map[string]any{}}
			with["gpu"] = map[string]any{"*": map[string]any{name: setting.Text()}}
		} else if name, ok := strings.CutPrefix(key, "packing."); ok {
			plain["packing"] = map[string]any{}
			with["packing"] = map[string]any{name: setting.Text()}
		} else {
			with[key] = setting.Text()
		}
		if a, b := effective(plain), effective(with); !reflect.DeepEqual(a, b) {
			t.Errorf("%s = %s is not the default: %+v and %+v", key, setting.Default, a, b)
		}
	}
}
