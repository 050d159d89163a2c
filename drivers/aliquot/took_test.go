package aliquot

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestAStartIsToldByItsParts(t *testing.T) {
	k := startTimes{parts: []part{{"models", "models", 12}, {"load", "load", 41.25}}}
	got, notes := k.text(true)
	if want := "start took 53.2 s until the task is ready: models 12.0 s, load 41.2 s"; got != want || notes["start_load_seconds"] != "41.250" {
		t.Errorf("%q %v, want %q", got, notes, want)
	}
	if got, _ := k.text(false); got != "start took 53.2 s until the container runs: models 12.0 s, load 41.2 s" {
		t.Error(got)
	}
}

// Image and models come at the same time: what both took is said once.
func TestImageAndModelsCountOnce(t *testing.T) {
	began := time.Unix(1000, 0)
	at := func(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }
	for name, c := range map[string]struct {
		models          bool
		pulled, brought time.Time
		want            string
	}{
		"the models come last":      {true, at(4), at(10), "image 4.0 s, models 6.0 s"},
		"the image comes last":      {true, at(10), at(4), "image 10.0 s, models 0.0 s"},
		"no models":                 {false, at(3), at(3), "image 3.0 s"},
		"pulled with the container": {true, time.Time{}, at(7), "models 7.0 s"},
	} {
		k := startTimes{began: began}
		k.fetched(c.models, c.pulled, c.brought)
		if got, _ := k.text(true); !strings.HasSuffix(got, ": "+c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestHeldModelsAreAList(t *testing.T) {
	many := slices.Repeat([]string{"hf://a/b@main"}, 100)
	if got := heldList(append([]string{"file:///a,b"}, many[:2]...)); got != "hf://a/b@main,hf://a/b@main" {
		t.Error(got)
	}
	if got := heldList(many); len(got) != 64*14-1 {
		t.Errorf("%d characters", len(got))
	}
	if heldList(nil) != "" {
		t.Error("nothing is a list")
	}
}
