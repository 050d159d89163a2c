package weigh

import (
	"regexp"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

func TestAtLeastMatchesExactlyTheLargerNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.OneOf(rapid.IntRange(1, 1200), rapid.IntRange(1, 999999999)).Draw(t, "n")
		text, err := AtLeast(n)
		if err != nil {
			t.Fatal(err)
		}
		re := regexp.MustCompile(text)
		for _, x := range []int{n - 1, n, n + 1, rapid.IntRange(0, 2000).Draw(t, "x"), rapid.IntRange(0, 999999999).Draw(t, "y")} {
			if x < 1e9 && re.MatchString(strconv.Itoa(x)) != (x >= n) {
				t.Fatalf("AtLeast(%d) = %s on %d", n, text, x)
			}
		}
		for _, x := range []string{"", "-5", "x", "1e9", "08", strconv.Itoa(n) + ".5"} {
			if re.MatchString(x) {
				t.Fatalf("AtLeast(%d) = %s matches %q", n, text, x)
			}
		}
	})
	for _, n := range []int{0, -1, 1000000000} {
		if _, err := AtLeast(n); err == nil {
			t.Errorf("AtLeast(%d) passes", n)
		}
	}
}

func TestRuleCheck(t *testing.T) {
	good := Rule{Name: "big", PathPrefix: "/v1", Classes: []string{"h100"}}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Rule){
		"no name":       func(r *Rule) { r.Name = "" },
		"bad name":      func(r *Rule) { r.Name = "Big Batch" },
		"long name":     func(r *Rule) { r.Name = "a-name-that-is-too-long-here" },
		"no match":      func(r *Rule) { r.PathPrefix = "" },
		"no hardware":   func(r *Rule) { r.Classes = nil },
		"bad path":      func(r *Rule) { r.PathPrefix = "v1" },
		"bad precision": func(r *Rule) { r.Precision = "fp3" },
		"bad weight":    func(r *Rule) { r.MinWeight = -1 },
		"bad header":    func(r *Rule) { r.Headers = []HeaderMatch{{Name: "a b", Exact: "x"}} },
		"empty header":  func(r *Rule) { r.Headers = []HeaderMatch{{Name: "a"}} },
		"bad regex":     func(r *Rule) { r.Headers = []HeaderMatch{{Name: "a", Regex: "("}} },
		"line break":    func(r *Rule) { r.Headers = []HeaderMatch{{Name: "a", Exact: "x\ny"}} },
	} {
		r := good
		change(&r)
		if err := r.Check(); err == nil {
			t.Errorf("%s passes: %+v", name, r)
		}
	}
}

func TestPrecisions(t *testing.T) {
	for class, want := range map[string]map[string]bool{
		"t4": {"fp16": true, "bf16": false, "fp8": false}, "a100-80gb": {"bf16": true, "fp8": false},
		"l4": {"fp8": true, "fp4": false}, "b200": {"fp4": true}, "mi300x": {"fp8": true, "fp4": false}, "mi355x": {"fp4": true},
	} {
		for p, ok := range want {
			if got := (Rule{Precision: p}).eligible(Group{Class: class}, Weight{}); got != ok {
				t.Errorf("%s in %s: %v", class, p, got)
			}
		}
	}
}
