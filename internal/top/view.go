package top

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
)

// Order is what nodes, and the GPUs of each, are sorted by.
type Order string

// The orders. Of each but the first, the node comes first that has the first GPU.
const (
	ByName   Order = "name"
	ByUse    Order = "use"    // the busiest first
	ByFree   Order = "free"   // the most free slices first
	ByHealth Order = "health" // the unhealthy first
)

var orders = []Order{ByName, ByUse, ByFree, ByHealth}

// Key is what a user of the live view presses.
type Key string

// The keys.
const (
	Up       Key = "up"
	Down     Key = "down"
	PageUp   Key = "page up"
	PageDown Key = "page down"
	Home     Key = "home"
	End      Key = "end"
	Sort     Key = "sort"
	Quit     Key = "quit"
)

// sequences are what terminals send for the keys: xterm's, its application mode's and
// the Linux console's, and letters as in less.
var sequences = map[string]Key{
	"\x1b[A": Up, "\x1bOA": Up, "k": Up, "\x1b[B": Down, "\x1bOB": Down, "j": Down,
	"\x1b[5~": PageUp, "b": PageUp, "\x1b[6~": PageDown, " ": PageDown,
	"\x1b[H": Home, "\x1bOH": Home, "\x1b[1~": Home, "g": Home, "\x1b[F": End, "\x1bOF": End, "\x1b[4~": End, "G": End,
	"s": Sort, "q": Quit, "\x03": Quit, "\x04": Quit,
}

// longestSequence bounds what is kept of one that has not ended.
const longestSequence = 8

// Keys reads what a terminal sent. What may be the start of a further key is returned,
// to be put before what comes next; what is no key is passed over.
func Keys(sent []byte) (keys []Key, rest []byte) {
	for len(sent) > 0 {
		n := 1
		if sent[0] == '\x1b' {
			if n = escape(sent); n == 0 {
				if len(sent) < longestSequence {
					return keys, sent
				}
				n = 1
			}
		}
		if k, ok := sequences[string(sent[:n])]; ok {
			keys = append(keys, k)
		}
		sent = sent[n:]
	}
	return keys, nil
}

// escape returns the length of the escape sequence that begins here, 0 for one that has
// not ended: ESC O and a letter, or ESC [, parameters and a letter or ~.
func escape(sent []byte) int {
	switch {
	case len(sent) == 1:
		return 0
	case sent[1] == 'O' && len(sent) > 2:
		return 3
	case sent[1] == 'O':
		return 0
	case sent[1] != '[':
		return 1
	}
	i := bytes.IndexFunc(sent[2:], func(r rune) bool { return r >= '@' && r <= '~' })
	if i < 0 {
		return 0
	}
	return 2 + i + 1
}

// View is what a user has chosen to see. The zero View is sorted by name.
type View struct {
	Order Order
	// Line is the first line that is shown, from 0.
	Line int
}

// Press returns the view after a key, of a text of that many lines in a window of that
// height.
func (v View) Press(k Key, lines, height int) View {
	page := max(1, height-1)
	switch k {
	case Up:
		v.Line--
	case Down:
		v.Line++
	case PageUp:
		v.Line -= page
	case PageDown:
		v.Line += page
	case Home:
		v.Line = 0
	case End:
		v.Line = lines
	case Sort:
		v.Order = orders[(slices.Index(orders, v.order())+1)%len(orders)]
		v.Line = 0
	}
	return v.Within(lines, height)
}

// Within returns the view moved so that the window is full where the text fills it.
func (v View) Within(lines, height int) View {
	v.Line = max(0, min(v.Line, lines-max(1, height)))
	return v
}

func (v View) order() Order { return cmp.Or(v.Order, ByName) }

// Window cuts a text to what the view shows of it.
func (v View) Window(text string, width, height int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return Fit(strings.Join(lines[min(v.Within(len(lines), height).Line, len(lines)):], "\n"), width, height)
}

// Hint names the order and the keys, for the last line of a window.
func (v View) Hint() string {
	return "q quits, arrows and PgUp/PgDn scroll, s sorts (by " + string(v.order()) + ")"
}

// Sorted returns the snapshot in the view's order; it changes nothing of s.
func (v View) Sorted(s Snapshot) Snapshot {
	if v.order() == ByName {
		return s
	}
	rank := func(g GPU) float64 {
		switch v.order() {
		case ByUse:
			return -g.UsePercent
		case ByFree:
			return -float64(g.Free())
		}
		if g.Healthy {
			return 1
		}
		return 0
	}
	s.Nodes = slices.Clone(s.Nodes)
	for i := range s.Nodes {
		s.Nodes[i].GPUs = slices.Clone(s.Nodes[i].GPUs)
		slices.SortStableFunc(s.Nodes[i].GPUs, func(a, b GPU) int { return cmp.Compare(rank(a), rank(b)) })
	}
	slices.SortStableFunc(s.Nodes, func(a, b Node) int {
		if len(a.GPUs) == 0 || len(b.GPUs) == 0 {
			return cmp.Compare(len(b.GPUs), len(a.GPUs))
		}
		return cmp.Compare(rank(a.GPUs[0]), rank(b.GPUs[0]))
	})
	return s
}

// Free counts the slices that can be given out: healthy ones that no allocation is seen
// to hold.
func (g GPU) Free() int {
	n := 0
	for _, s := range g.Slices {
		if s.Allocation == "" && s.Healthy {
			n++
		}
	}
	return n
}
