package nvidia

import (
	"reflect"
	"testing"

	"github.com/hashicorp/go-hclog"

	"aliquot.example/devices/plugin"
	"aliquot.example/internal/reference"
)

// docs/configuration.md lists every key of NVIDIA alone, and writing its default
// changes nothing.
func TestTheReferenceIsThatOfNVIDIA(t *testing.T) {
	want := map[string]string{}
	for _, k := range Maker().Keys {
		want[k.Name] = ""
	}
	for _, k := range Maker().GPUKeys {
		want["gpu."+k.Name] = ""
	}
	effective := func(raw map[string]any) []any {
		config, err := Maker().Config(raw)
		if err != nil {
			t.Fatal(err)
		}
		made, err := newVendor(config, plugin.Host{Log: hclog.NewNullLogger()})
		if err != nil {
			t.Fatal(err)
		}
		v := made.(*vendor)
		return []any{v.monitor.policy, v.monitor.recovery, v.mps.program, v.mps.options, v.mps.shmSize, v.exclusiveMode, v.lib.path}
	}
	for key, setting := range reference.Compare(t, "NVIDIA", want) {
		if setting.Default == "" {
			continue
		}
		if a, b := effective(nil), effective(map[string]any{key: setting.Text()}); !reflect.DeepEqual(a, b) {
			t.Errorf("%s = %s is not the default: %+v and %+v", key, setting.Default, a, b)
		}
	}
}
