package field

import (
	"net/http"
	"slices"
	"testing"
)

func TestParse(t *testing.T) {
	for line, want := range map[string][2]string{
		"host: x":             {"Host", "x"},
		"X-Two:\ta b \t":      {"X-Two", "a b"},
		"X:":                  {"X", ""},
		"X: caf\xe9":          {"X", "caf\xe9"},
		"content-type:a: b":   {"Content-Type", "a: b"},
		"x_y: underscores go": {"X_y", "underscores go"},
	} {
		if name, value, err := Parse([]byte(line)); err != nil || name != want[0] || value != want[1] {
			t.Errorf("%q: %q %q %v", line, name, value, err)
		}
	}
	for _, line := range []string{"", "x", ": x", "a b: x", "a : x", " a: x", "a: \x00", "a: b\rc", "\xe9: x"} {
		if name, value, err := Parse([]byte(line)); err == nil {
			t.Errorf("%q: %q %q", line, name, value)
		}
	}
}

// The values of one header are shared with the next, and adding to one never changes
// another.
func TestLinesAreKeptAndNotChanged(t *testing.T) {
	var l Lines
	read := func(lines ...string) http.Header {
		h := http.Header{}
		l.Begin()
		for _, line := range lines {
			if err := l.Add(h, []byte(line)); err != nil {
				t.Fatal(err)
			}
		}
		return h
	}
	first := read("A: 1", "B: 2")
	second := read("A: 1", "B: 2", "A: 3")
	Put(second, "B", []string{"4"})
	third := read("A: 1", "A: 3", "B: 2")
	for i, c := range []struct {
		h    http.Header
		a, b []string
	}{{first, []string{"1"}, []string{"2"}}, {second, []string{"1", "3"}, []string{"2", "4"}}, {third, []string{"1", "3"}, []string{"2"}}} {
		if !slices.Equal(c.h["A"], c.a) || !slices.Equal(c.h["B"], c.b) {
			t.Errorf("header %d is %v", i, c.h)
		}
	}
}
