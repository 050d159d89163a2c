package strategy

import (
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"aliquot.example/autoscaler-plugin/speed"
	"aliquot.example/internal/reference"
)

// docs/configuration.md lists every setting of the plugin with its default.
func TestDocumentedSettings(t *testing.T) {
	err := New(hclog.NewNullLogger()).SetConfig(map[string]string{"nothing": "x"})
	if err == nil {
		t.Fatal("an unknown setting is accepted")
	}
	_, names, _ := strings.Cut(err.Error(), "want one of ")
	want := map[string]string{}
	for _, name := range strings.Split(names, ", ") {
		want[name] = ""
	}
	page := reference.Compare(t, "aliquot-strategy", want)
	speeds := func(settings map[string]string) bool {
		p := New(hclog.NewNullLogger())
		if err := p.SetConfig(settings); err != nil {
			t.Fatal(err)
		}
		return p.speeds != nil
	}
	if documented := page[speed.Setting].Text(); speeds(nil) != speeds(map[string]string{speed.Setting: documented}) || speeds(nil) == speeds(map[string]string{speed.Setting: "false"}) {
		t.Errorf("%s is %s on the page, which is not the default", speed.Setting, documented)
	}
	learns := func(settings map[string]string) bool {
		p := New(hclog.NewNullLogger())
		if err := p.SetConfig(settings); err != nil {
			t.Fatal(err)
		}
		return p.consul != nil
	}
	if documented := page[learn].Text(); learns(nil) != learns(map[string]string{learn: documented}) || learns(nil) == learns(map[string]string{learn: "false"}) {
		t.Errorf("%s is %s on the page, which is not the default", learn, documented)
	}
}
