// Package engine computes what a language model server with continuous batching does, step by step
// and without a clock. It has the scheduler of vLLM V1 (chunked prefill with a token budget for
// each step, preemption by recomputation), a KV cache in blocks, a prefix cache in the same memory,
// and a step time computed from the bandwidth and the arithmetic rate of the hardware.
//
// It does not model speculative decoding, adapters, KV offload, tokenization, or prefix hits on
// generated tokens.
package engine

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Config configures an engine. The last three fields default to vLLM's defaults.
type Config struct {
	Hardware
	// MaxSeqs is the maximum number of sequences in one step, 256 by default.
	MaxSeqs int
	// Block is the number of tokens in a block of the KV cache, 16 by default.
	Block int
	// Page is the number of tokens that one hash of a Prefix covers: a multiple of Block, which is
	// also its default.
	Page int
}

// Sequence is one request. The caller sets the exported fields and must not change them after Add.
type Sequence struct {
	// Prompt and Output are lengths in tokens, both at least 1.
	Prompt, Output int
	// Prefix holds a hash for each full page of the prompt. The hash identifies that page and all
	// pages before it.
	Prefix []uint64
	Value  any

	pages    []*page
	blocks   int
	computed int // tokens whose keys and values are in memory
	made     int // generated tokens
	hit      int
	admitted bool // has run before
	gone     bool
	next     int // tokens to compute in the current step
}

// Made returns the number of tokens generated so far.
func (s *Sequence) Made() int { return s.made }

// Hit returns the number of prompt tokens that were in the prefix cache when the sequence was first
// admitted.
func (s *Sequence) Hit() int { return s.hit }

func (s *Sequence) length() int { return s.Prompt + s.made }
func (s *Sequence) done() bool  { return s.made >= s.Output }

// Engine is one server. It is not safe for concurrent use.
type Engine struct {
	config  Config
	memory  *memory
	waiting []*Sequence // next first
	running []*Sequence // in order of admission
	batch   []*Sequence // of the current step
	out     []*Sequence
	counts  Counts
}

// Counts are totals since the start.
type Counts struct {
	Preemptions int
	// Queried counts the prompt tokens looked up in the prefix cache, Hit those found.
	Queried, Hit int
}

// New returns an engine without requests.
func New(c Config) *Engine {
	if c.MaxSeqs == 0 {
		c.MaxSeqs = 256
	}
	if c.Block == 0 {
		c.Block = 16
	}
	if c.Page == 0 {
		c.Page = c.Block
	}
	return &Engine{config: c, memory: newMemory(c.KVTokens, c.Block, c.Page)}
}

// Config returns the configuration with defaults filled in.
func (e *Engine) Config() Config { return e.config }

// ErrTooLong means that a request exceeds the KV cache, so that it can never be served.
var ErrTooLong = errors.New("longer than the KV cache")

// Add queues a sequence. It fails with ErrTooLong, or if a length is below 1.
func (e *Engine) Add(s *Sequence) error {
	if s.Prompt < 1 || s.Output < 1 {
		return fmt.Errorf("prompt of %d and output of %d tokens: want at least 1", s.Prompt, s.Output)
	}
	if room := e.memory.total * e.config.Block; s.Prompt+s.Output > room {
		return fmt.Errorf("%d tokens of prompt and output, %d in the cache: %w", s.Prompt+s.Output, room, ErrTooLong)
	}
	e.waiting = append(e.waiting, s)
	return nil
}

// Drop removes a sequence whose client left. In the middle of a step the work on it is still done,
// and wasted.
func (e *Engine) Drop(s *Sequence) {
	is := func(x *Sequence) bool { return x == s }
	e.waiting = slices.DeleteFunc(e.waiting, is)
	e.running = slices.DeleteFunc(e.running, is)
	s.gone = true
	e.memory.release(s)
}

// Begin starts a step and returns its duration, or false if there is nothing to do. End must be
// called before the next Begin.
func (e *Engine) Begin() (time.Duration, bool) {
	e.batch = e.batch[:0]
	budget, preempted := e.scheduleRunning(e.config.Budget)
	if !preempted {
		e.admit(budget)
	}
	if len(e.batch) == 0 {
		return 0, false
	}
	return time.Duration(e.config.seconds(e.load()) * float64(time.Second)), true
}

// scheduleRunning assigns tokens to the running sequences. It takes the memory for them from the
// sequences that were admitted last.
func (e *Engine) scheduleRunning(budget int) (left int, preempted bool) {
	for i := 0; i < len(e.running) && budget > 0; i++ {
		s := e.running[i]
		n := min(s.length()-s.computed, budget)
		for !e.memory.grow(s, s.computed+n) {
			preempted = true
			if e.preempt() == s {
				return budget, true
			}
		}
		s.next = n
		budget -= n
		e.batch = append(e.batch, s)
	}
	return budget, preempted
}

// preempt stops the sequence that was admitted last, which must then recompute everything.
func (e *Engine) preempt() *Sequence {
	s := e.running[len(e.running)-1]
	e.running = e.running[:len(e.running)-1]
	e.memory.release(s)
	e.waiting = slices.Insert(e.waiting, 0, s)
	e.counts.Preemptions++
	return s
}

// admit starts waiting sequences in order while there is room for their next chunk.
func (e *Engine) admit(budget int) {
	for len(e.waiting) > 0 && len(e.running) < e.config.MaxSeqs && budget > 0 {
		s := e.waiting[0]
		// The last token is always computed, because its output is the next token.
		pages := e.memory.match(s.Prefix, (s.length()-1)/e.config.Page)
		for _, hash := range s.Prefix[:pages] {
			p := e.memory.pages[hash]
			e.memory.hold(p)
			s.pages = append(s.pages, p)
		}
		s.computed = pages * e.config.Page
		n := min(s.length()-s.computed, budget)
		if !e.memory.grow(s, s.computed+n) {
			e.memory.release(s)
			return
		}
		if !s.admitted {
			s.admitted, s.hit = true, s.computed
			e.counts.Queried += s.Prompt
			e.counts.Hit += s.hit
		}
		s.next = n
		budget -= n
		e.waiting = e.waiting[1:]
		e.running = append(e.running, s)
		e.batch = append(e.batch, s)
	}
}

func (e *Engine) load() work {
	w := work{sequences: len(e.batch)}
	for _, s := range e.batch {
		w.tokens += s.next
		if s.made > 0 && s.next == 1 {
			w.context += s.computed + 1
		} else {
			w.pairs += float64(s.next) * (float64(s.computed) + float64(s.next)/2)
		}
	}
	return w
}

// End finishes the step and returns the sequences that got a token. The slice is valid until the
// next End. Sequences with a complete answer have left the engine.
func (e *Engine) End() []*Sequence {
	e.out = e.out[:0]
	finished := false
	for _, s := range e.batch {
		if s.gone {
			continue
		}
		s.computed += s.next
		e.memory.share(s)
		if s.computed < s.length() {
			continue
		}
		s.made++
		e.out = append(e.out, s)
		if s.done() {
			finished = true
			e.memory.release(s)
		}
	}
	if finished {
		e.running = slices.DeleteFunc(e.running, (*Sequence).done)
	}
	e.batch = e.batch[:0]
	return e.out
}

// Running returns the number of sequences in the batch.
func (e *Engine) Running() int { return len(e.running) }

// Waiting returns the number of sequences that wait for a place in the batch.
func (e *Engine) Waiting() int { return len(e.waiting) }

// KVUsage returns the fraction of the KV cache that sequences hold, from 0 to 1.
func (e *Engine) KVUsage() float64 { return float64(e.memory.used()) / float64(e.memory.total) }

// Blocks returns the size of the KV cache in blocks.
func (e *Engine) Blocks() int { return e.memory.total }

// Cached returns how many tokens of a prefix are in the cache now.
func (e *Engine) Cached(prefix []uint64) int {
	return e.memory.match(prefix, len(prefix)) * e.config.Page
}

// Counts returns the totals since the start.
func (e *Engine) Counts() Counts { return e.counts }
