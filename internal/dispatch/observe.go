package dispatch

import "time"

const (
	// prefillMemory and stepMemory are the numbers of samples after which an old sample counts 1/e.
	prefillMemory = 256
	stepMemory    = 1000
	// outputMemory is the same for lengths of answers.
	outputMemory = 500
	// sameStep is the maximum distance between first tokens of the same step.
	sameStep = 2 * time.Millisecond
	// cachePressure is the used fraction of its cache above which a replica may make requests wait for
	// memory. Such a wait must not be mistaken for slow prefill.
	cachePressure = 0.85
	// wholeWeight is the weight of an answer that is not streamed as a sample of both speeds: it
	// shows only how long they took together.
	wholeWeight = 0.25
)

// firstTokens are first tokens that arrived together, after one period of prefill.
type firstTokens struct {
	since, at time.Time
	prompts   float64
	tokens    float64
}

// checkCachePressure records the times at which the replica's cache is nearly full.
func (s *server) checkCachePressure(now time.Time) {
	if s.KV > 0 && float64(s.books.memory()) > cachePressure*float64(s.KV) {
		s.books.lastFull = now
	}
}

// learnFirstToken learns from a first token how fast prompts are read. First tokens that arrive together
// are one sample, which is learned when the next first token arrives.
func (s *server) learnFirstToken(t *Ticket, now time.Time) {
	b := &s.books
	s.checkCachePressure(now)
	since := t.started
	if b.lastFirstToken.After(since) {
		since = b.lastFirstToken
	}
	fresh := float64(max(1, t.Prompt-t.entry.hit))
	tokens := attentionCost(fresh, float64(max(1, t.Prompt)))
	f := &b.firstTokens
	if f.prompts > 0 && now.Sub(f.at) <= sameStep {
		f.prompts++
		f.tokens += tokens
		return
	}
	s.learnPrefill(now)
	if b.lastFull.After(t.started) {
		*f = firstTokens{}
		return
	}
	*f = firstTokens{since: since, at: now, prompts: 1, tokens: tokens}
}

// learnPrefill learns from the collected first tokens.
func (s *server) learnPrefill(now time.Time) {
	f := &s.books.firstTokens
	if f.prompts > 0 {
		k := s.tier.kind
		took := f.at.Sub(f.since).Seconds()
		expected := k.speed.prefill[0]*f.prompts + k.speed.prefill[1]*f.tokens
		s.slowdown.add(took/expected, 1)
		k.prefill.add(k.assumed.prefillTerms(f.prompts, f.tokens), took/s.slowdown.factor, 1, now)
	}
	*f = firstTokens{}
}

// learnStep learns from the time between tokens how long a step takes, if no prompt was read
// meanwhile.
func (s *server) learnStep(t *Ticket, tokens int, now time.Time) {
	b := &s.books
	if len(b.pending) > 0 {
		b.lastPending = now
		return
	}
	if b.lastPending.After(t.entry.at) || t.entry.tokens == 0 {
		return
	}
	took := now.Sub(t.entry.at).Seconds() / float64(tokens-t.entry.tokens)
	k := s.tier.kind
	n := max(1, float64(len(b.begun)))
	// All streams of a replica show the same steps.
	s.slowdown.add(took/k.speed.stepTime(n, float64(b.kv)), 1/n)
	k.step.add(k.assumed.stepTerms(n, float64(b.kv)), took/s.slowdown.factor, 1/n, now)
}

// ended takes a request out of the replica's books and learns from it.
func (s *server) ended(t *Ticket, verdict Verdict, now time.Time) {
	if verdict == Served && t.Whole && t.entry.counted {
		s.learnWhole(t, now)
	}
	if len(s.books.pending) > 0 {
		s.books.lastPending = now
	}
	s.remove(t)
}

// learnWhole learns from an answer that was not streamed: it took so many times longer than
// expected, and nothing shows whether because of prefill or of steps.
func (s *server) learnWhole(t *Ticket, now time.Time) {
	e, b, k := &t.entry, &s.books, s.tier.kind
	took := now.Sub(t.started).Seconds() - e.backlog
	if b.lastFull.After(t.started) {
		return
	}
	n, kv := (e.n+float64(s.active))/2, (e.kv+float64(b.kv))/2
	busy, _ := b.prefillShare.of(now)
	step := k.speed.stepTime(n, kv)
	expected := e.work + float64(e.tokens)*step/(1-min(busy, maxPrefillShare))
	if !(took > 0) || !(expected > 0) {
		return
	}
	ratio := took / expected / s.slowdown.factor
	k.prefill.add(k.assumed.prefillTerms(1, attentionCost(float64(max(1, t.Prompt-e.hit)), float64(max(1, t.Prompt)))),
		ratio*e.work, wholeWeight, now)
	k.step.add(k.assumed.stepTerms(n, kv), ratio*step, wholeWeight, now)
}

const (
	// A kind that has served nothing yet is tried after exploreAfter answers from other kinds.
	exploreAfter = 64
	// exploreFactor is the factor by which unexplored hardware may be faster than assumed: the assumption may
	// be wrong by a factor of 3, and so may the one with which it is compared.
	exploreFactor = 10
)

// markUnexplored finds the kinds to try: those that serve nothing and have not done so for a while, or
// ever, although others serve. The assumption about them may be all that keeps requests away. One
// request at a time goes there until the kind has been measured.
func (f *fleet) markUnexplored(answers float64, now time.Time) {
	for _, k := range f.kinds {
		k.unexplored = answers >= exploreAfter && now.Sub(k.prefill.at).Seconds() > idleDecay
	}
	for _, s := range f.all {
		k := s.tier.kind
		k.unexplored = k.unexplored && s.active == 0
	}
}
