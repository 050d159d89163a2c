package dispatch

import (
	"math"
	"slices"
	"time"
)

// books record the requests that a replica was sent and has not finished, in Tokens mode.
type books struct {
	kv             int          // tokens of prompts and answers in flight
	shared         shared       // tokens of kv that the cache holds only once for several requests
	pending        []*Ticket    // sent, without a token yet, in order
	begun          []*Ticket    // sent, with tokens
	work           float64      // seconds of prefill that pending needs
	lastFirstToken time.Time    // time of the latest first token
	prefillShare   prefillShare // fraction of its time that prefill takes

	external struct { // load that bypasses this queue, according to the engine's last metrics
		running, waiting, kv float64
		until                time.Time
	}
	risk risk

	firstTokens firstTokens // first tokens that arrived together
	lastFull    time.Time   // when the cache was last nearly full
	lastPending time.Time   // when a prompt was last known to be pending
	cacheMisses int         // consecutive requests whose prefix was not in the cache as expected
	caches      bool        // the engine reports cache hits
}

// entry is a request in a replica's books.
type entry struct {
	work    float64 // seconds of prefill
	backlog float64 // the replica's backlog before this request, when it was sent
	hit     int     // prompt tokens that were in the replica's cache
	block   int     // tokens of each of its blocks, as in shared
	tokens  int     // tokens of the answer so far
	n, kv   float64 // the replica's requests and tokens when it was sent
	began   bool
	first   time.Time // when its first token came
	at      time.Time // when tokens was last counted
	counted bool      // the engine reported the number of tokens
}

// prefillShare is the fraction of its time that a replica spends on prefill: recently, and over a
// longer period.
type prefillShare struct {
	recent, long float64 // seconds of prefill, decaying over span and over longSpan
	mean         float64 // seconds of prefill of one prompt
	span         float64
	at           time.Time
}

// long is averaged over longSpan seconds, and recent over at most as many. recent covers about
// recentPrefills prompts: with short prompts a second is enough to show how busy a replica is, but it
// takes ten long prompts to show it.
const (
	longSpan       = 20
	recentPrefills = 10
)

func (r *prefillShare) add(seconds float64, now time.Time) {
	recent, long := r.of(now)
	if r.mean == 0 {
		r.mean, r.span = seconds, longSpan
	}
	recent *= r.span
	r.mean += (seconds - r.mean) / 64
	r.span = min(max(recentPrefills*r.mean, 1), longSpan)
	r.recent, r.long, r.at = recent+seconds, long*longSpan+seconds, now
}

// of returns the recent share and the long-term one.
func (r *prefillShare) of(now time.Time) (recent, long float64) {
	if r.span == 0 {
		return 0, 0
	}
	dt := now.Sub(r.at).Seconds()
	return r.recent / r.span * decay(dt, r.span), r.long / longSpan * decay(dt, longSpan)
}

// send records a request that is sent to the replica.
func (s *server) send(t *Ticket, work float64, hit int, now time.Time) {
	b := &s.books
	t.entry = entry{work: work, backlog: b.backlog(now), hit: hit, n: float64(s.active + 1),
		kv: float64(b.kv + t.Prompt)}
	b.kv += t.Prompt
	b.shared.add(t)
	b.pending = append(b.pending, t)
	b.risk.stale = true
	b.work += work
	b.prefillShare.add(work, now)
	b.lastPending = now
	s.checkCachePressure(now)
}

// remove removes a request that has left the replica.
func (s *server) remove(t *Ticket) {
	b := &s.books
	b.kv -= t.Prompt + t.entry.tokens
	b.shared.release(t)
	b.risk.stale = true
	if t.entry.began {
		i := slices.Index(b.begun, t)
		b.begun = slices.Delete(b.begun, i, i+1)
		return
	}
	b.removePending(t)
}

// memory returns how many tokens of the cache the requests in flight need.
func (b *books) memory() int { return b.kv - b.shared.saved }

func (b *books) removePending(t *Ticket) {
	if i := slices.Index(b.pending, t); i >= 0 {
		b.pending = slices.Delete(b.pending, i, i+1)
		b.work -= t.entry.work
	}
	if len(b.pending) == 0 {
		b.work = 0
	}
}

// assumeBegun moves on requests whose answers are not streamed. Their first token is not visible,
// so it is assumed to come when the replica has had the time to read the prompt. From then on half
// of the answer is assumed to be in the cache.
func (s *server) assumeBegun(output float64, now time.Time) {
	b := &s.books
	for len(b.pending) > 0 && b.pending[0].Whole {
		t := b.pending[0]
		since := t.started
		if b.lastFirstToken.After(since) {
			since = b.lastFirstToken
		}
		at := since.Add(seconds(t.entry.work))
		if at.After(now) {
			return
		}
		if t.entry.tokens == 0 {
			t.entry.tokens = int(output / 2)
			b.kv += t.entry.tokens
		}
		s.begin(t, at)
	}
}

// backlog returns the seconds until the replica has read all prompts that it was sent.
func (b *books) backlog(now time.Time) float64 {
	if len(b.pending) == 0 {
		return 0
	}
	head := b.pending[0]
	since := head.started
	if b.lastFirstToken.After(since) {
		since = b.lastFirstToken
	}
	done := min(max(0, now.Sub(since).Seconds()), 0.9*head.entry.work)
	return b.work - done
}

// room returns how many blocks of prompts fit into the replica's cache.
func (s *server) room() int {
	if s.KV > 0 {
		return s.KV / BlockTokens
	}
	return unknownBlocks
}

// Began records the first token of a ticket.
func (q *Queue) Began(t *Ticket, now time.Time) {
	s := t.on
	if s == nil || t.entry.began {
		return
	}
	s.learnFirstToken(t, now)
	s.begin(t, now)
}

func (s *server) begin(t *Ticket, now time.Time) {
	b := &s.books
	b.removePending(t)
	t.entry.began, t.entry.first, t.entry.at = true, now, now
	b.begun = append(b.begun, t)
	b.risk.stale = true
	b.lastFirstToken = now
	if len(b.pending) > 0 || b.lastPending.IsZero() {
		b.lastPending = now
	}
}

// Progress records how many tokens of the answer have arrived.
func (q *Queue) Progress(t *Ticket, tokens int, now time.Time) {
	tokens = min(tokens, q.averages.maxOutput(t))
	if t.on == nil || tokens <= t.entry.tokens {
		return
	}
	if !t.entry.began {
		q.Began(t, now)
	} else {
		t.on.learnStep(t, tokens, now)
	}
	t.on.books.kv += tokens - t.entry.tokens
	t.entry.tokens, t.entry.at = tokens, now
}

// Settle records what the engine reports about a ticket: the tokens of its prompt, how many of them
// were in the engine's cache, and the tokens of its answer. A negative number means unknown;
// impossible numbers are treated alike. Settle must be called before Finish.
func (q *Queue) Settle(t *Ticket, prompt, cached, output int) {
	s := t.on
	if s == nil {
		return
	}
	if prompt > 0 && prompt <= min(s.promptLimit(), maxReported(t.Prompt)) {
		s.books.kv += prompt - t.Prompt
		t.Prompt = prompt
	}
	if output >= 0 && output <= q.averages.maxOutput(t) {
		s.books.kv += output - t.entry.tokens
		t.entry.tokens, t.entry.counted = output, true
	}
	if cached >= 0 {
		q.fleet.correct(s, t, cached)
	}
}

// trustedTokens is the number of tokens that any request may report. A larger number counts only up to
// maxRatio times the expected number.
const trustedTokens = 1 << 16

func maxReported(expected int) int {
	return max(trustedTokens, maxRatio*min(max(expected, 0), math.MaxInt/maxRatio))
}

// After maxCacheMisses consecutive misses the replica's prefix cache is cleared.
const maxCacheMisses = 3

// correct compares the index's expectation for a request with the engine's report.
func (f *fleet) correct(s *server, t *Ticket, cached int) {
	b := &s.books
	b.caches = b.caches || cached > 0
	switch {
	case t.entry.hit < 2*BlockTokens || !b.caches:
	case cached >= t.entry.hit/2:
		b.cacheMisses = 0
	default:
		if b.cacheMisses++; b.cacheMisses >= maxCacheMisses {
			b.cacheMisses = 0
			f.index.clear(s.prefixes)
		}
	}
}

// metricsTTL is how long an engine's metrics remain valid.
const metricsTTL = 10 * time.Second

// Observe records an engine's metrics. It uses them only for load that this queue did not send,
// because the books are exact and metrics are late.
func (q *Queue) Observe(id string, e EngineState, now time.Time) {
	s := q.fleet.servers[id]
	if s == nil {
		return
	}
	f := &s.books.external
	f.running = max(0, float64(e.Running+e.Waiting-s.active))
	f.waiting = max(0, float64(e.Waiting-len(s.books.pending)))
	f.kv = 0
	if s.KV > 0 {
		f.kv = max(0, min(e.KVUsed, 1)*float64(s.KV)-float64(s.books.memory()))
	}
	f.until = now.Add(metricsTTL)
}
