package engine

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// small returns an engine with so little memory that sequences compete for it.
func small(r *rand.Rand) *Engine {
	h, _ := Class("a100")
	h.KVTokens, h.Budget = 64*(20+r.IntN(200)), 64+r.IntN(1000)
	return New(Config{Hardware: h, MaxSeqs: 1 + r.IntN(30), Block: 16, Page: 64})
}

// draw returns a sequence that may share its prefix with others from the same r.
func draw(r *rand.Rand, e *Engine) *Sequence {
	most := e.Blocks() * e.Config().Block
	s := &Sequence{Prompt: 1 + r.IntN(most/2), Output: 1 + r.IntN(most/8)}
	family := r.Uint64N(3)
	for i := range s.Prompt / e.Config().Page {
		s.Prefix = append(s.Prefix, family<<32|uint64(i))
	}
	return s
}

// check recounts the memory from its holders.
func check(t *testing.T, e *Engine) {
	t.Helper()
	m := e.memory
	alone, holders := 0, map[*page]int{}
	for _, s := range append(append([]*Sequence{}, e.running...), e.waiting...) {
		alone += s.blocks
		if s.blocks < 0 {
			t.Fatalf("a sequence holds %d blocks", s.blocks)
		}
		for _, p := range s.pages {
			holders[p]++
		}
	}
	idle := 0
	for p := m.oldest; p != nil; p = p.next {
		if holders[p] > 0 || p.holders != 0 || m.pages[p.hash] != p {
			t.Fatal("a page in use is among those that may be taken")
		}
		idle += m.perPage()
	}
	for p, n := range holders {
		if p.holders != n || m.pages[p.hash] != p {
			t.Fatalf("a page counts %d holders, it has %d", p.holders, n)
		}
	}
	if idle != m.idle || m.free < 0 || m.free+m.idle+alone+len(holders)*m.perPage() != m.total {
		t.Fatalf("blocks: %d free, %d idle (%d counted), %d alone, %d pages held, %d in all", m.free, m.idle, idle, alone, len(holders), m.total)
	}
}

func TestMemoryIsConservedAndNoRequestIsLost(t *testing.T) {
	preemptions, hits := 0, 0
	for seed := range uint64(15) {
		r := rand.New(rand.NewPCG(seed, 1))
		e := small(r)
		left, live := 60, map[*Sequence]int{}
		for steps := 0; left > 0 || len(live) > 0; steps++ {
			if steps > 1e6 {
				t.Fatalf("seed %d: %d sequences never end", seed, len(live))
			}
			for left > 0 && r.IntN(3) == 0 {
				s := draw(r, e)
				if err := e.Add(s); err != nil {
					t.Fatal(err)
				}
				live[s] = 0
				left--
			}
			took, ok := e.Begin()
			if !ok {
				if len(live) > 0 {
					t.Fatalf("seed %d: nothing to do for %d sequences", seed, len(live))
				}
				continue
			}
			if took <= 0 {
				t.Fatalf("a step of %s", took)
			}
			if r.IntN(100) == 0 {
				for s := range live {
					e.Drop(s)
					delete(live, s)
					break
				}
			}
			for _, s := range e.End() {
				n, ok := live[s]
				if live[s]++; !ok || s.Made() != n+1 {
					t.Fatalf("seed %d: token %d after %d of a sequence that is there: %v", seed, s.Made(), n, ok)
				}
				if s.Made() == s.Output {
					delete(live, s)
				}
			}
			check(t, e)
		}
		if e.Running()+e.Waiting() != 0 || e.KVUsage() != 0 {
			t.Fatalf("seed %d: %d running, %d waiting, %g of the memory used at the end", seed, e.Running(), e.Waiting(), e.KVUsage())
		}
		preemptions += e.Counts().Preemptions
		hits += e.Counts().Hit
	}
	if preemptions == 0 || hits == 0 {
		t.Errorf("%d preemptions and %d hits: the test does not reach them", preemptions, hits)
	}
}

// run serves the sequences, all there at the start, and returns the total time.
func run(t *testing.T, c Config, all ...Sequence) time.Duration {
	t.Helper()
	e := New(c)
	for _, s := range all {
		if err := e.Add(&s); err != nil {
			t.Fatal(err)
		}
	}
	var total time.Duration
	for {
		d, ok := e.Begin()
		if !ok {
			return total
		}
		total += d
		e.End()
	}
}

func TestStepTimeGrowsWithEachPartOfTheWork(t *testing.T) {
	for _, h := range Classes() {
		base := work{tokens: 4000, sequences: 10, context: 1000, pairs: 1e6}
		for name, more := range map[string]work{
			"tokens":    {tokens: 4001, sequences: 10, context: 1000, pairs: 1e6},
			"sequences": {tokens: 4000, sequences: 11, context: 1000, pairs: 1e6},
			"context":   {tokens: 4000, sequences: 10, context: 1001, pairs: 1e6},
			"pairs":     {tokens: 4000, sequences: 10, context: 1000, pairs: 2e6},
		} {
			if h.seconds(more) <= h.seconds(base) {
				t.Errorf("%s: more %s take no longer", h.Class, name)
			}
		}
	}
}

func TestMoreIsNotSlower(t *testing.T) {
	h, _ := Class("h100")
	slow, _ := Class("a100")
	all := []Sequence{{Prompt: 3000, Output: 50}, {Prompt: 9000, Output: 20}, {Prompt: 100, Output: 200}}
	fast := run(t, Config{Hardware: h}, all...)
	if other := run(t, Config{Hardware: slow}, all...); other <= fast {
		t.Errorf("an A100 takes %s, an H100 %s", other, fast)
	}
	if more := run(t, Config{Hardware: h}, append(all, Sequence{Prompt: 1, Output: 1})...); more < fast {
		t.Errorf("one request more takes %s, without it %s", more, fast)
	}
	h.KVTokens = 9100
	if tight := run(t, Config{Hardware: h}, all...); tight <= fast {
		t.Errorf("with little memory %s, with much %s", tight, fast)
	}
}

func TestAPrefixThatWasServedIsNotComputedAgain(t *testing.T) {
	h, _ := Class("a100")
	e := New(Config{Hardware: h, Page: 512})
	prefix := []uint64{1, 2, 3, 4}
	for i, want := range []int{0, 1536} { // the last token of a prompt is always computed
		s := &Sequence{Prompt: 2048, Output: 2, Prefix: prefix}
		if err := e.Add(s); err != nil {
			t.Fatal(err)
		}
		for {
			if _, ok := e.Begin(); !ok {
				break
			}
			e.End()
		}
		if s.Hit() != want {
			t.Errorf("request %d finds %d tokens, want %d", i, s.Hit(), want)
		}
	}
	if got := e.Cached(append(prefix, 5)); got != 2048 {
		t.Errorf("%d tokens are cached, want 2048", got)
	}
}

func TestWhatNeverFitsIsRefused(t *testing.T) {
	h, _ := Class("t4")
	e := New(Config{Hardware: h})
	if err := e.Add(&Sequence{Prompt: h.KVTokens, Output: 1}); !errors.Is(err, ErrTooLong) {
		t.Errorf("a prompt of the whole cache: %v", err)
	}
	if err := e.Add(&Sequence{Prompt: 0, Output: 1}); err == nil {
		t.Error("an empty prompt is taken")
	}
}

// The figures are those from which the classes were derived: prompt tokens per second without other
// work, and milliseconds of an almost empty step.
func TestClassesAreAsFastAsTheyWereDerived(t *testing.T) {
	for class, want := range map[string]struct{ prompt, step float64 }{
		"h100": {27700, 8.0}, "mi300x": {28500, 7.3}, "half-h100": {13900, 14.0},
		"a100": {9700, 11.8}, "l4": {6800, 37.4}, "t4": {1400, 28.4},
	} {
		h, ok := Class(class)
		if !ok {
			t.Fatalf("no class %s", class)
		}
		if got := h.FLOPS / tokenFLOP; math.Abs(got/want.prompt-1) > 0.015 {
			t.Errorf("%s: %.0f prompt tokens per second, want %.0f", class, got, want.prompt)
		}
		if got := 1e3 * h.seconds(work{}); math.Abs(got/want.step-1) > 0.015 {
			t.Errorf("%s: an empty step takes %.2f ms, want %.1f", class, got, want.step)
		}
	}
	if _, ok := Class("abacus"); ok {
		t.Error("an unknown class is known")
	}
}
