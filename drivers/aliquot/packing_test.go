package aliquot

import (
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"
)

// A change of the levels is sent at once, with all that the docker driver said last.
func TestLevelsAreSentWhenTheyChange(t *testing.T) {
	d := unstarted(t)
	d.set.dangling = DanglingOff
	in, out := make(chan *drivers.Fingerprint), make(chan *drivers.Fingerprint)
	go d.pass(t.Context(), in, out)
	d.levels.set(map[string]string{"unique.aliquot.room": "3"}) // before docker said anything
	said := &drivers.Fingerprint{Health: drivers.HealthStateHealthy, Attributes: map[string]*pstructs.Attribute{"driver.docker": pstructs.NewBoolAttribute(true)}}
	in <- said
	room := func(fp *drivers.Fingerprint) string {
		if v, _ := fp.Attributes["driver.aliquot"].GetBool(); !v || fp.Health != drivers.HealthStateHealthy {
			t.Errorf("the docker driver's words are lost: %+v", fp)
		}
		text, _ := fp.Attributes["unique.aliquot.room"].GetString()
		return text
	}
	if got := room(<-out); got != "3" {
		t.Errorf("the first fingerprint has room %q", got)
	}
	d.levels.set(map[string]string{"unique.aliquot.room": "2"})
	for got := ""; got != "2"; got = room(<-out) {
		continue // the wake-up of the first levels may still have been there
	}
	if said.Attributes["unique.aliquot.room"] != nil {
		t.Error("the docker driver's own fingerprint was changed")
	}
}

func TestNoLevelsWithoutTheBlock(t *testing.T) {
	for text, want := range map[string]bool{`{}`: false, `{"packing": [{}]}`: true, `{"packing": [{"enabled": false}]}`: false} {
		c, err := decodeConfig(t, text)
		if err != nil {
			t.Fatal(err)
		}
		set, err := c.settings()
		if err != nil || (set.packing != nil) != want {
			t.Errorf("%s: publishes levels: %v, %v", text, set.packing != nil, err)
		}
	}
}
