package scale

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseClasses(t *testing.T) {
	got, err := ParseClasses("h100 slots=8 cost=3.5 max=4,\n l4 max=16 slots=2")
	want := []Class{{Name: "h100", Slots: 8, Cost: 3.5, Max: 4, Speed: 1}, {Name: "l4", Slots: 2, Cost: 1, Max: 16, Speed: 1}}
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("got %v, %v", got, err)
	}
}

func TestParseClassesNamesTheColumn(t *testing.T) {
	for _, c := range []struct {
		text    string
		column  int
		problem string
	}{
		{"", 1, "missing"},
		{"h100 slots=8 max=4,", 20, "missing"},
		{"h100 slots=8", 13, "no max"},
		{"h100 max=1", 11, "no slots"},
		{"slots=8", 1, "comes before the name"},
		{"h100 slots=eight max=1", 12, "whole number"},
		{"h100 slots=0 max=1", 12, "from 1"},
		{"h100 slots=8 max=-1", 18, "from 0"},
		{"h100 slots=8 max=1 cost=-2", 25, "cost"},
		{"h100 slots=8 max=1 cost=NaN", 25, "cost"},
		{"h100 slots=8 slots=9 max=1", 14, "twice"},
		{"h100 size=8", 6, "unknown setting"},
		{"h100 slots=8 max=1 speed=0", 26, "from 0.01 to 100"},
		{"h100 slots=8 max=1 speed=NaN", 26, "from 0.01 to 100"},
		{"h100 l4 slots=8 max=1", 6, "comma"},
		{"h1/00 slots=8 max=1", 1, "invalid class name"},
		{"a slots=1 max=1, a slots=1 max=1", 18, "twice"},
		{"a slots=1000 max=1000", 1, "100000"},
	} {
		_, err := ParseClasses(c.text)
		var at *SyntaxError
		if !errors.As(err, &at) || at.Column != c.column || !strings.Contains(at.Problem, c.problem) {
			t.Errorf("%q: got %v, want column %d, %q", c.text, err, c.column, c.problem)
		}
	}
}

func FuzzParseClasses(f *testing.F) {
	f.Add("h100 slots=8 cost=3.5 max=4, l4 slots=2 max=16")
	f.Add(",")
	f.Add("a slots=1 max=0 cost=1e3 speed=0.25, b slots=900 max=100 speed=3")
	f.Fuzz(func(t *testing.T, text string) {
		classes, err := ParseClasses(text)
		if err != nil {
			var at *SyntaxError
			if !errors.As(err, &at) || at.Column < 1 || at.Column > len(text)+1 {
				t.Fatalf("%q: error without a column of it: %v", text, err)
			}
			return
		}
		if len(classes) == 0 {
			t.Fatalf("%q: no class and no error", text)
		}
		Plan(17, classes)
	})
}

func TestSeriesFillsSmallGapsAndForgetsWhatLiesBeforeBigOnes(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(seconds int, v float64) Point {
		return Point{start.Add(time.Duration(seconds) * time.Second), v}
	}
	got, err := Series([]Point{at(0, 9), at(100, 1), at(103, 2), at(104, 3)})
	if err != nil || fmt.Sprint(got) != "[1 1 1 2 3]" {
		t.Fatalf("got %v, %v", got, err)
	}
	if _, err := Series(nil); err == nil {
		t.Error("an empty series is accepted")
	}
	if _, err := Series([]Point{at(0, -1)}); err == nil {
		t.Error("a negative demand is accepted")
	}
}

func TestSeriesEndsWithTheLastPoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gaps := rapid.SliceOfN(rapid.IntRange(0, 90_000), 1, 50).Draw(t, "ms between points")
		var points []Point
		now := time.Unix(5000, 0)
		for i, g := range gaps {
			now = now.Add(time.Duration(g) * time.Millisecond)
			points = append(points, Point{now, float64(i)})
		}
		got, err := Series(points)
		if err != nil || got[len(got)-1] != float64(len(gaps)-1) {
			t.Fatalf("got %v, %v", got, err)
		}
	})
}
