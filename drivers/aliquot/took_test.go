package aliquot

import (
	"slices"
	"testing"
	"time"
)

func TestAStartIsToldByItsParts(t *testing.T) {
	k := took{parts: []part{{"models", "models", 12}, {"load", "load", 41.25}}}
	got, notes := k.text(true)
	if want := "start took 53.2 s until the task is ready: models 12.0 s, load 41.2 s"; got != want || notes["start_load_seconds"] != "41.250" {
		t.Errorf("%q %v, want %q", got, notes, want)
	}
	if got, _ := k.text(false); got != "start took 53.2 s until the container runs: models 12.0 s, load 41.2 s" {
		t.Error(got)
	}
	k.add("x", "y", time.Now())
	if len(k.parts) != 3 {
		t.Errorf("%+v", k.parts)
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
