package top

import (
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestFit(t *testing.T) {
	if got := Fit("one\ntwo two\nthree\nfour\n", 80, 3); got != "one\ntwo two\n… 2 more lines" {
		t.Errorf("%q", got)
	}
	if got := Fit("a long line\nb", 6, 2); got != "a lon…\nb" {
		t.Errorf("%q", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`([a-zé]{0,30}\n){0,20}`).Draw(t, "text")
		width, height := rapid.IntRange(0, 40).Draw(t, "width"), rapid.IntRange(0, 20).Draw(t, "height")
		got := Fit(text, width, height)
		if n := strings.Count(got, "\n") + 1; got != "" && n > height {
			t.Fatalf("%d lines in a window of %d: %q", n, height, got)
		}
		for line := range strings.SplitSeq(got, "\n") {
			if utf8.RuneCountInString(line) > width {
				t.Fatalf("%q is wider than %d", line, width)
			}
		}
	})
}
