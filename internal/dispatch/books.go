package dispatch

import (
	"slices"
	"time"
)

// books are what a replica has been given and has not finished, in Tokens mode.
type books struct {
	streams int       // answers that have begun
	kv      int       // tokens of prompts and answers in flight
	pending []*Ticket // sent, without a token yet, in order
	work    float64   // seconds of reading that pending needs
	first   time.Time // the last first token
	share   share     // of its time that it spends reading

	foreign struct { // load from past this queue, as the engine told last
		running, waiting, kv float64
		until                time.Time
	}
	promised float64 // seconds of reading promised in the walk of round
	round    uint64
}

// entry is a request in a replica's books.
type entry struct {
	work    float64 // seconds of reading
	backlog float64 // of the replica before it, when it was sent
	hit     int     // tokens of the prompt that the replica had
	tokens  int     // of the answer, so far
	began   bool
}

// share is the part of the time that is taken, over about readingSpan.
type share struct {
	sum float64
	at  time.Time
}

// readingSpan is over how many seconds the share of reading is averaged.
const readingSpan = 20

func (r *share) add(seconds float64, now time.Time) {
	r.sum = r.of(now)*readingSpan + seconds
	r.at = now
}

func (r *share) of(now time.Time) float64 {
	return r.sum / readingSpan * fade(now.Sub(r.at).Seconds(), readingSpan)
}

// send books a request that is given to the replica.
func (s *server) send(t *Ticket, work float64, hit int, now time.Time) {
	b := &s.books
	t.entry = entry{work: work, backlog: b.backlog(now), hit: hit}
	b.kv += t.Prompt
	b.pending = append(b.pending, t)
	b.work += work
	b.share.add(work, now)
}

// unbook forgets a request that left the replica.
func (s *server) unbook(t *Ticket) {
	b := &s.books
	b.kv -= t.Prompt + t.entry.tokens
	if t.entry.began {
		b.streams--
		return
	}
	b.unpend(t)
}

func (b *books) unpend(t *Ticket) {
	if i := slices.Index(b.pending, t); i >= 0 {
		b.pending = slices.Delete(b.pending, i, i+1)
		b.work -= t.entry.work
	}
	if len(b.pending) == 0 {
		b.work = 0
	}
}

// backlog is the seconds until the replica has read what it was sent.
func (b *books) backlog(now time.Time) float64 {
	if len(b.pending) == 0 {
		return 0
	}
	head := b.pending[0]
	since := head.started
	if b.first.After(since) {
		since = b.first
	}
	done := min(max(0, now.Sub(since).Seconds()), 0.9*head.entry.work)
	return b.work - done
}

// Began records that a ticket's first token came.
func (q *Queue) Began(t *Ticket, now time.Time) {
	s := t.on
	if s == nil || t.entry.began {
		return
	}
	b := &s.books
	b.unpend(t)
	t.entry.began = true
	b.streams++
	b.first = now
}

// Progress records how many tokens of the answer have come so far.
func (q *Queue) Progress(t *Ticket, tokens int, now time.Time) {
	if t.on == nil || tokens <= t.entry.tokens {
		return
	}
	q.Began(t, now)
	t.on.books.kv += tokens - t.entry.tokens
	t.entry.tokens = tokens
}

// Settle records what the engine says that a ticket took: tokens of its prompt,
// those of them that were in the engine's cache, and tokens of its answer. A
// negative number is not known. It is called before Finish.
func (q *Queue) Settle(t *Ticket, prompt, cached, output int) {
	if t.on == nil {
		return
	}
	if prompt > 0 {
		t.on.books.kv += prompt - t.Prompt
		t.Prompt = prompt
	}
	if output >= 0 {
		t.on.books.kv += output - t.entry.tokens
		t.entry.tokens = output
	}
}

// observation is for how long what an engine said of itself is believed.
const observation = 10 * time.Second

// Observe records what an engine says of itself. Only load beyond what this queue
// sent is taken from it: the books are exact where an observation is late.
func (q *Queue) Observe(id string, e EngineState, now time.Time) {
	s := q.servers[id]
	if s == nil {
		return
	}
	f := &s.books.foreign
	f.running = max(0, float64(e.Running+e.Waiting-s.active))
	f.waiting = max(0, float64(e.Waiting-len(s.books.pending)))
	f.kv = 0
	if s.KV > 0 {
		f.kv = max(0, min(e.KVUsed, 1)*float64(s.KV)-float64(s.books.kv))
	}
	f.until = now.Add(observation)
}
