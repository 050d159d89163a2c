package top

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
)

// Order is the order of nodes, and of the GPUs of each node.
type Order string

// The orders. Except by name, nodes are sorted by their first GPU.
const (
	ByName   Order = "name"
	ByUse    Order = "use"    // the busiest first
	ByFree   Order = "free"   // the most free slices first
	ByHealth Order = "health" // the unhealthy first
)

var orders = []Order{ByName, ByUse, ByFree, ByHealth}

// Key is a key of the live view.
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

// sequences are the bytes that terminals send for the keys, in xterm's normal and application mode
// and on the Linux console; and the letters of less.
var sequences = map[string]Key{
	"\x1b[A": Up, "\x1bOA": Up, "k": Up, "\x1b[B": Down, "\x1bOB": Down, "j": Down,
	"\x1b[5~": PageUp, "b": PageUp, "\x1b[6~": PageDown, " ": PageDown,
	"\x1b[H": Home, "\x1bOH": Home, "\x1b[1~": Home, "g": Home, "\x1b[F": End, "\x1bOF": End, "\x1b[4~": End, "G": End,
	"s": Sort, "q": Quit, "\x03": Quit, "\x04": Quit,
}

// maxSequence is the largest number of bytes of an incomplete sequence.
const maxSequence = 8

// Keys parses the bytes that a terminal sent, and ignores bytes that are not a key. rest may be the
// start of another key: put it before the next bytes.
func Keys(sent []byte) (keys []Key, rest []byte) {
	for len(sent) > 0 {
		n := 1
		if sent[0] == '\x1b' {
			if n = escape(sent); n == 0 {
				if len(sent) < maxSequence {
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

// escape returns the length of the escape sequence at the start of sent, 0 if it is incomplete. A
// sequence is ESC O and a letter, or ESC [, parameters and a letter or ~.
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

// View is the part of a snapshot that the user has chosen. The zero View is sorted by name.
type View struct {
	Order Order
	// Line is the first visible line, from 0.
	Line int
}

// Press returns the view after a key, for a text with this number of lines and a window of this
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

// Within returns the view moved into the text, so that the window is full if the text is long
// enough.
func (v View) Within(lines, height int) View {
	v.Line = max(0, min(v.Line, lines-max(1, height)))
	return v
}

func (v View) order() Order { return cmp.Or(v.Order, ByName) }

// Window returns the visible part of a text.
func (v View) Window(text string, width, height int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return Fit(strings.Join(lines[min(v.Within(len(lines), height).Line, len(lines)):], "\n"), width, height)
}

// Hint returns the order and the keys, for the last line of a window.
func (v View) Hint() string {
	return "q quits, arrows and PgUp/PgDn scroll, s sorts (by " + string(v.order()) + ")"
}

// Sorted returns the snapshot in the view's order. It does not modify s.
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

// Free counts the healthy slices without a visible allocation.
func (g GPU) Free() int {
	n := 0
	for _, s := range g.Slices {
		if s.Allocation == "" && s.Healthy {
			n++
		}
	}
	return n
}
