// Package profile determines how to measure the speed of a model server: which requests to send,
// what the responses show, whether the server can be trusted, and which curves fit. It is pure: it
// takes times and counts and returns figures.
package profile

import (
	"cmp"
	"fmt"
	"slices"
)

// Cell is one point of a design: a number of concurrent requests, and the tokens of each prompt and
// response.
type Cell struct {
	Prompt      int `json:"prompt"`
	Output      int `json:"output"`
	Concurrency int `json:"concurrency"`
}

// Tokens returns the tokens that the requests of a cell have in the cache at their end.
func (c Cell) Tokens() int { return c.Concurrency * (c.Prompt + c.Output) }

// Limits are the limits of a server. 0 is unknown.
type Limits struct {
	Context int // tokens of prompt and response together
	KV      int // tokens in its cache
	Slots   int // concurrent requests
}

// Design is the grid of cells that curves are fitted to.
type Design struct {
	Prompts       []int // tokens
	Concurrencies []int
	// Alone are additional prompt lengths, only for one request at a time.
	Alone []int
	// Window is the number of steps in which all requests of a cell decode together. These are the
	// steps that are measured.
	Window int
}

// Usual returns the design for servers of language models. Engines read prompts in chunks of 512,
// 2048 or 8192 tokens, and a few more tokens cost a whole step, so the lengths are slightly below.
func Usual() Design {
	return Design{Prompts: []int{120, 480, 1900, 7600}, Alone: []int{960, 3800}, Concurrencies: []int{1, 4, 16, 64},
		Window: 32}
}

const (
	// chunk is the smallest number of prompt tokens that engines read per step. While they read the
	// last prompts, the first requests already decode.
	chunk = 512
	// maxPrompts bounds the prompt tokens of a cell. A larger cell takes minutes and adds little.
	maxPrompts = 1 << 18
	// maxKVUse is the part of its cache that a server fills without delaying requests.
	maxKVUse = 0.8
)

// Cells returns the cells that a server can take, the cheapest first, and why the others are left
// out.
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

// Beyond returns the limit that a cell exceeds, "" for none.
func (c Cell) Beyond(l Limits) string {
	switch {
	case l.Context > 0 && c.Prompt+c.Output > l.Context:
		return fmt.Sprintf("the server takes %d tokens of prompt and answer", l.Context)
	case l.KV > 0 && float64(c.Tokens()) > maxKVUse*float64(l.KV):
		return fmt.Sprintf("the server's cache holds %d tokens", l.KV)
	case l.Slots > 0 && c.Concurrency > l.Slots:
		return fmt.Sprintf("the server takes %d at once", l.Slots)
	case c.Prompt*c.Concurrency > maxPrompts:
		return "it would take too long"
	}
	return ""
}

// Rounds determines how often a point is measured.
type Rounds struct {
	Min, Max int
	// Precision is the half width of the 95% confidence interval, relative to the mean, at which a
	// point is done.
	Precision float64
}

// UsualRounds returns at least three rounds, and more until each mean is known to 3%.
func UsualRounds() Rounds { return Rounds{Min: 3, Max: 20, Precision: 0.03} }

// Done reports whether every one of a point's figures is precise enough, or the maximum number of
// rounds is reached.
func (r Rounds) Done(rounds int, figures ...[]float64) bool {
	if rounds >= r.Max {
		return true
	}
	if rounds < r.Min {
		return false
	}
	for _, f := range figures {
		if m := MeanOf(f); len(f) > 0 && !(m.Half <= r.Precision*m.Value) {
			return false
		}
	}
	return true
}
