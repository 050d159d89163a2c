// Package profile decides how the speed of a model server is measured: which requests
// are sent, what their answers say, whether the server can be believed, and which curves
// fit. It is pure: it takes times and counts, and returns figures.
package profile

import (
	"cmp"
	"fmt"
	"slices"
)

// Cell is one point of a design: so many requests at once, each with a prompt and an
// answer of so many tokens.
type Cell struct {
	Prompt      int `json:"prompt"`
	Output      int `json:"output"`
	Concurrency int `json:"concurrency"`
}

// Tokens is how many tokens the requests of a cell have in a cache at their end.
func (c Cell) Tokens() int { return c.Concurrency * (c.Prompt + c.Output) }

// Limits are what a server takes; 0 is unknown.
type Limits struct {
	Context int // tokens of prompt and answer
	KV      int // tokens in its cache
	Slots   int // requests at once
}

// Design is the grid that curves are fitted to.
type Design struct {
	Prompts       []int // tokens
	Concurrencies []int
	// Alone are further prompts, of one request at a time.
	Alone []int
	// Window is for how many steps all requests of a cell are to be answered together:
	// these are the steps that are measured.
	Window int
}

// Usual is the design for servers of language models. Engines read prompts in parts of
// 512, 2048 or 8192 tokens, and a few tokens more cost a whole step: the lengths stay
// somewhat below.
func Usual() Design {
	return Design{Prompts: []int{120, 480, 1900, 7600}, Alone: []int{960, 3800}, Concurrencies: []int{1, 4, 16, 64},
		Window: 32}
}

const (
	// chunk is how many tokens of prompts engines read in a step at least. While they
	// read what came last, what came first already writes.
	chunk = 512
	// mostPrompts bounds the tokens of prompts of one cell: a larger one takes minutes
	// and says little that the others do not.
	mostPrompts = 1 << 18
	// fullest is the part of its cache that a server fills without putting requests off.
	fullest = 0.8
)

// Cells lists the points that a server can take, the cheapest first, and says of those
// that are left out why.
func (d Design) Cells(l Limits) (cells []Cell, left []string) {
	for _, prompt := range slices.Concat(d.Prompts, d.Alone) {
		for _, n := range d.Concurrencies {
			if n > 1 && slices.Contains(d.Alone, prompt) {
				continue
			}
			c := Cell{Prompt: prompt, Concurrency: n, Output: d.Window + min(prompt*n/chunk, 1024)}
			if why := c.Beyond(l); why != "" {
				left = append(left, fmt.Sprintf("%d at once with %d tokens: %s", n, prompt, why))
				continue
			}
			cells = append(cells, c)
		}
	}
	slices.SortStableFunc(cells, func(a, b Cell) int { return cmp.Compare(a.Tokens(), b.Tokens()) })
	return cells, left
}

// Beyond says which limit a cell exceeds, "" for none.
func (c Cell) Beyond(l Limits) string {
	switch {
	case l.Context > 0 && c.Prompt+c.Output > l.Context:
		return fmt.Sprintf("the server takes %d tokens of prompt and answer", l.Context)
	case l.KV > 0 && float64(c.Tokens()) > fullest*float64(l.KV):
		return fmt.Sprintf("the server's cache holds %d tokens", l.KV)
	case l.Slots > 0 && c.Concurrency > l.Slots:
		return fmt.Sprintf("the server takes %d at once", l.Slots)
	case c.Prompt*c.Concurrency > mostPrompts:
		return "it would take too long"
	}
	return ""
}

// Rounds says how often a point is measured.
type Rounds struct {
	Least, Most int
	// Precision is the half width of the 95% confidence interval, relative to the mean,
	// at which a point is done.
	Precision float64
}

// UsualRounds are three rounds at least, and more until a mean is known to 3%.
func UsualRounds() Rounds { return Rounds{Least: 3, Most: 20, Precision: 0.03} }

// Done reports whether a point with these figures of its rounds is known well enough.
// Each of them must be.
func (r Rounds) Done(rounds int, figures ...[]float64) bool {
	if rounds >= r.Most {
		return true
	}
	if rounds < r.Least {
		return false
	}
	for _, f := range figures {
		if m := MeanOf(f); len(f) > 0 && !(m.Half <= r.Precision*m.Value) {
			return false
		}
	}
	return true
}
