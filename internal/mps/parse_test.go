package mps

import (
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestParsePIDs(t *testing.T) {
	for text, want := range map[string][]int{"": nil, "\n": nil, "12\n": {12}, "12\n 7\n": {12, 7}} {
		if got, err := ParsePIDs(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("ParsePIDs(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"Server 12 not found", "-1", "0", "12.5"} {
		if got, err := ParsePIDs(text); err == nil {
			t.Errorf("ParsePIDs(%q) = %v, want an error", text, got)
		}
	}
}

func TestParseStatus(t *testing.T) {
	if got, err := ParseStatus(" FAULT\n"); err != nil || got != Fault {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := ParseStatus("Server 3 not found"); err == nil {
		t.Errorf("got %v, want an error", got)
	}
}

func TestParsePercentage(t *testing.T) {
	if got, err := ParsePercentage("100.0\n"); err != nil || got != 100 {
		t.Errorf("got %v, %v", got, err)
	}
	for _, text := range []string{"", "0", "101", "NaN", "Inf", "none"} {
		if got, err := ParsePercentage(text); err == nil {
			t.Errorf("ParsePercentage(%q) = %v, want an error", text, got)
		}
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add("12\n13\n")
	f.Add("100.0\n")
	f.Add("FAULT")
	f.Add("Server 12 not found")
	f.Fuzz(func(t *testing.T, text string) {
		if pids, err := ParsePIDs(text); err == nil {
			var words []string
			for _, pid := range pids {
				if pid <= 0 {
					t.Fatalf("%q gives PID %d", text, pid)
				}
				words = append(words, strconv.Itoa(pid))
			}
			if again, err := ParsePIDs(strings.Join(words, "\n")); err != nil || !slices.Equal(again, pids) {
				t.Fatalf("%q: %v, then %v, %v", text, pids, again, err)
			}
		}
		if p, err := ParsePercentage(text); err == nil && !(p > 0 && p <= 100) {
			t.Fatalf("%q is %v percent", text, p)
		}
		if s, err := ParseStatus(text); err == nil && !strings.EqualFold(strings.TrimSpace(text), string(s)) {
			t.Fatalf("%q is status %s", text, s)
		}
		if _, err := ParsePIDs(text); err != nil && strings.Contains(err.Error(), "\n") {
			t.Fatalf("an error of two lines: %v", err)
		}
	})
}
