package ui

import (
	"fmt"
	"testing"
)

// Browsers that look at the same view share it until something changes.
func TestDrawingsAreShared(t *testing.T) {
	var d drawings
	made := 0
	draw := func(name string, changed <-chan struct{}) string {
		text, err := d.of(name, changed, func() any { made++; return made })
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	one, two := make(chan struct{}), make(chan struct{})
	if a, b := draw("cluster", one), draw("cluster", one); a != "1" || b != "1" {
		t.Errorf("the same facts are drawn as %s and %s", a, b)
	}
	if a := draw("cluster", two); a != "2" {
		t.Errorf("other facts are drawn as %s", a)
	}
	for i := range 10 * maxDrawings { // names that browsers make up
		draw(fmt.Sprint("service ", i), two)
		draw(fmt.Sprint("service ", i), one)
	}
	if len(d.drawn) > maxDrawings {
		t.Errorf("%d are kept", len(d.drawn))
	}
}
