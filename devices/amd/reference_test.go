package amd

import (
	"testing"

	"github.com/hashicorp/go-hclog"

	"aliquot.example/devices/plugin"
	"aliquot.example/internal/reference"
)

// docs/configuration.md lists every key of AMD alone, and writing its default
// changes nothing.
func TestTheReferenceIsThatOfAMD(t *testing.T) {
	want := map[string]string{}
	for _, k := range Maker().Keys {
		want[k.Name] = ""
	}
	for _, k := range Maker().GPUKeys {
		want["gpu."+k.Name] = ""
	}
	effective := func(raw map[string]any) [2]int {
		config, err := Maker().Config(raw)
		if err != nil {
			t.Fatal(err)
		}
		made, err := newVendor(config, plugin.Host{Log: hclog.NewNullLogger(), Wake: func() {}})
		if err != nil {
			t.Fatal(err)
		}
		v := made.(*vendor)
		return [2]int{v.maxUncorrectable, v.maxBadPages}
	}
	for key, setting := range reference.Compare(t, "AMD", want) {
		if setting.Default == "" {
			continue
		}
		if a, b := effective(nil), effective(map[string]any{key: setting.Text()}); a != b {
			t.Errorf("%s = %s is not the default: %v and %v", key, setting.Default, a, b)
		}
	}
}
