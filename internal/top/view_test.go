package top

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// names are the groups of a snapshot in order.
func names(s Snapshot) string {
	var out []string
	for _, n := range s.Nodes {
		for _, g := range n.GPUs {
			out = append(out, n.Name+"/"+g.Group)
		}
	}
	return strings.Join(out, " ")
}

func TestOrders(t *testing.T) {
	held := func(n int) []Slice {
		m := map[int]string{}
		for i := range n {
			m[i] = "a"
		}
		return slicesOf(4, m)
	}
	s := Snapshot{Nodes: []Node{
		{Name: "n1", GPUs: []GPU{{Group: "a", Healthy: true, UsePercent: 10, Slices: held(3)}, {Group: "b", Healthy: true, UsePercent: 30, Slices: held(4)}}},
		{Name: "n2", GPUs: []GPU{{Group: "c", Healthy: true, UsePercent: -1, Slices: held(0)}, {Group: "d", UsePercent: 90, Slices: held(2)}}},
	}}
	for order, want := range map[Order]string{
		"": "n1/a n1/b n2/c n2/d", ByName: "n1/a n1/b n2/c n2/d", ByUse: "n2/d n2/c n1/b n1/a",
		ByFree: "n2/c n2/d n1/a n1/b", ByHealth: "n2/d n2/c n1/a n1/b",
	} {
		if got := names(View{Order: order}.Sorted(s)); got != want {
			t.Errorf("by %s: %s, want %s", order, got, want)
		}
	}
	if got := names(s); got != "n1/a n1/b n2/c n2/d" {
		t.Errorf("sorting changed what was sorted: %s", got)
	}
}

func TestEveryKeyIsRead(t *testing.T) {
	for sent, want := range map[string][]Key{
		"jk":                  {Down, Up},
		"\x1b[A\x1bOB\x1b[5~": {Up, Down, PageUp},
		"\x1b[1;5Bq":          {Quit}, // Ctrl and an arrow is no key
		"\x1bq":               {Quit}, // Alt and a letter is the letter
		"é?":                  nil,
	} {
		if got, rest := Keys([]byte(sent)); !slices.Equal(got, want) || len(rest) > 0 {
			t.Errorf("%q: %v and %q, want %v", sent, got, rest, want)
		}
	}
	// In whatever pieces a terminal's bytes come, the keys are the same.
	rapid.Check(t, func(t *rapid.T) {
		var sent []byte
		var want []Key
		known := slices.Collect(func(yield func(string) bool) {
			for s := range sequences {
				if !yield(s) {
					return
				}
			}
		})
		slices.Sort(known)
		for range rapid.IntRange(0, 20).Draw(t, "keys") {
			s := rapid.SampledFrom(known).Draw(t, "key")
			sent, want = append(sent, s...), append(want, sequences[s])
		}
		var got []Key
		var rest []byte
		for len(sent) > 0 {
			n := rapid.IntRange(1, len(sent)).Draw(t, "piece")
			var keys []Key
			keys, rest = Keys(append(slices.Clone(rest), sent[:n]...))
			got, sent = append(got, keys...), sent[n:]
		}
		if !slices.Equal(got, want) || len(rest) > 0 {
			t.Fatalf("%v and %q, want %v", got, rest, want)
		}
	})
}

func FuzzKeys(f *testing.F) {
	f.Add([]byte("\x1b[6~"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		if keys, rest := Keys(sent); len(rest) >= maxSequence || len(keys) > len(sent) {
			t.Errorf("%q: %d keys, %q is kept", sent, len(keys), rest)
		}
	})
}

// Every line can be reached, none is shown twice, and the window is never left.
func TestEveryLineCanBeReached(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, height := rapid.IntRange(1, 60).Draw(t, "lines"), rapid.IntRange(2, 20).Draw(t, "height")
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "<%d>\n", i)
		}
		v, seen := View{}, map[string]bool{}
		note := func() {
			shown := strings.Split(v.Window(b.String(), 80, height), "\n")
			if len(shown) > height {
				t.Fatalf("%d lines in a window of %d", len(shown), height)
			}
			for _, line := range shown {
				seen[line] = true
			}
		}
		for range n {
			note()
			v = v.Press(Down, n, height)
		}
		note()
		for i := range n {
			if !seen[fmt.Sprintf("<%d>", i)] {
				t.Fatalf("line %d of %d was never shown in a window of %d", i, n, height)
			}
		}
		if v = v.Press(End, n, height); v != v.Press(PageDown, n, height) || v.Press(Home, n, height).Line != 0 {
			t.Fatalf("the end is %+v", v)
		}
		if v = v.Press(Sort, n, height); v.Order != ByUse || v.Line != 0 || !strings.Contains(v.Hint(), "by use") {
			t.Fatalf("%+v", v)
		}
	})
}
