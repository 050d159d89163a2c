package simulate

import (
	"container/heap"
	"math"
	"time"

	"aliquot.example/internal/learned"
)

// batch is what a replica does whose engine batches. It reads the prompts that it was sent
// one after the other, which holds up the steps of all answers, and steps while it has
// none to read: an answer gets a token at each step. Times are those of a learned.Curve.
type batch struct {
	curve learned.Curve
	at    time.Duration // up to which it is computed
	// reading is the requests whose prompts are not read yet, left the seconds that the
	// first of them still takes.
	reading []*call
	left    float64
	writing calls   // the next to end first
	steps   float64 // since the start
	kv      float64 // tokens in the cache, of the answers that are written
	held    float64 // tokens that all requests will have in the cache at their end
	// version changes with every change, so that an event that was planned before is
	// known for it.
	version int
}

// call is a request at a replica.
type call struct {
	index          int // in the trace
	prompt, output float64
	end            float64 // the step of its last token
}

// calls is a heap.
type calls []*call

func (c calls) Len() int           { return len(c) }
func (c calls) Less(i, j int) bool { return c[i].end < c[j].end }
func (c calls) Swap(i, j int)      { c[i], c[j] = c[j], c[i] }
func (c *calls) Push(x any)        { *c = append(*c, x.(*call)) }
func (c *calls) Pop() any {
	old := *c
	last := old[len(old)-1]
	*c = old[:len(old)-1]
	return last
}

// work is the seconds of reading that are left.
func (b *batch) work() float64 {
	seconds := 0.0
	for i, c := range b.reading {
		if i == 0 {
			seconds += b.left
		} else {
			seconds += b.curve.Reading(c.prompt)
		}
	}
	return seconds
}

// takes says whether a request fits: an empty replica takes any.
func (b *batch) takes(q Request) bool {
	n := len(b.reading) + len(b.writing)
	if n == 0 {
		return true
	}
	slots := b.curve.Slots
	if slots == 0 {
		slots = defaultBatch
	}
	return float64(n) < slots && (b.curve.KV == 0 || b.held+float64(q.InputTokens+q.OutputTokens) <= b.curve.KV)
}

// defaultBatch is the most requests that engines serve at once by default.
const defaultBatch = 256

func (b *batch) add(now time.Duration, index int, q Request) {
	b.advance(now)
	c := &call{index: index, prompt: float64(max(1, q.InputTokens)), output: float64(max(1, q.OutputTokens))}
	if b.reading = append(b.reading, c); len(b.reading) == 1 {
		b.left = b.curve.Reading(c.prompt)
	}
	b.held += c.prompt + c.output
	b.version++
}

// advance computes up to a time at which nothing begins or ends, or something does.
func (b *batch) advance(now time.Duration) {
	seconds := (now - b.at).Seconds()
	b.at = now
	switch n := float64(len(b.writing)); {
	case len(b.reading) > 0:
		b.left -= seconds
	case n > 0:
		steps := b.stepsIn(seconds)
		b.steps += steps
		b.kv += n * steps
	}
}

// stepsIn is how many steps are made in so many seconds: m of them take
// m (A + B n + C kv) + C n m²/2, since the cache grows by n tokens with each.
func (b *batch) stepsIn(seconds float64) float64 {
	first := b.curve.Stepping(float64(len(b.writing)), b.kv)
	half := b.curve.C * float64(len(b.writing)) / 2
	if half*seconds < 1e-12*first*first {
		return seconds / first
	}
	return (math.Sqrt(first*first+4*half*seconds) - first) / (2 * half)
}

// next is when the present reading or the first of the answers ends.
func (b *batch) next() (at time.Duration, busy bool) {
	var seconds float64
	switch {
	case len(b.reading) > 0:
		seconds = b.left
	case len(b.writing) > 0:
		n := float64(len(b.writing))
		m := max(0, b.writing[0].end-b.steps)
		seconds = m*b.curve.Stepping(n, b.kv) + b.curve.C*n*m*m/2
	default:
		return 0, false
	}
	// Rounded up, so that it has ended then.
	return b.at + lasting(math.Ceil(max(0, seconds)*1e9)), true
}

// turn ends what has ended at the present time: the reading of one prompt, which began
// an answer, and answers.
func (b *batch) turn() (began *call, ended []*call) {
	b.version++
	if len(b.reading) > 0 && b.left < 1e-8 {
		began = b.reading[0]
		b.reading = b.reading[1:]
		if len(b.reading) > 0 {
			b.left = b.curve.Reading(b.reading[0].prompt)
		}
		began.end = b.steps + began.output - 1
		heap.Push(&b.writing, began)
		b.kv += began.prompt + 1
	}
	for len(b.writing) > 0 && b.writing[0].end <= b.steps+1e-6 {
		c := heap.Pop(&b.writing).(*call)
		b.kv -= c.prompt + c.output
		b.held -= c.prompt + c.output
		ended = append(ended, c)
	}
	if len(b.writing) == 0 {
		b.kv = 0
	}
	return began, ended
}

// use is the part of the cache that is in use, 0 where its size is unknown.
func (b *batch) use() float64 {
	if b.curve.KV == 0 {
		return 0
	}
	read := 0.0
	for _, c := range b.reading {
		read += c.prompt
	}
	return min(1, (b.kv+read)/b.curve.KV)
}

const (
	// readAhead is the seconds of prompts to read from which a replica is sent no more:
	// requests wait where they may still go elsewhere.
	readAhead = 0.25
	// passed is how many waiting requests are looked at for one that fits.
	passed = 32
)

// sends gives waiting requests to replicas that batch, as the gateway does that counts in
// tokens: the oldest first, each where it costs the fewest seconds, its own and those by which
// it holds up the answers that are there. Where it fits nowhere the next is looked at.
func (e *engine) sends() {
	for at := 0; at < len(e.queue) && at < passed; {
		i := e.queue[at]
		best := e.cheapest(e.trace[i])
		if best == nil {
			at++
			continue
		}
		e.queue = append(e.queue[:at], e.queue[at+1:]...)
		e.begin(i, best)
		best.batch.add(e.now, i, e.trace[i])
		e.plan(best)
	}
}

func (e *engine) cheapest(q Request) (best *replica) {
	least := math.Inf(1)
	for _, r := range e.replicas {
		if !r.ready || r.stopping || !r.batch.takes(q) {
			continue
		}
		r.batch.advance(e.now)
		wait := r.batch.work()
		if wait > readAhead {
			continue
		}
		if cost := r.batch.cost(wait, q); cost < least {
			best, least = r, cost
		}
	}
	return best
}

// cost of a request in seconds where so many are left to read: its own until its last
// token, and half of those by which it holds up the others.
func (b *batch) cost(wait float64, q Request) float64 {
	reading := b.curve.Reading(float64(q.InputTokens))
	n := float64(len(b.reading) + len(b.writing))
	with, output := b.curve.Stepping(n+1, b.kv+float64(q.InputTokens)), float64(q.OutputTokens)
	others := n*reading + n*output*(with-b.curve.Stepping(n, b.kv))
	return wait + reading + output*with + others/2
}

// plan books the next event of a replica.
func (e *engine) plan(r *replica) {
	if at, busy := r.batch.next(); busy {
		e.push(event{at: at, kind: eventTurn, replica: r, version: r.batch.version})
	}
}

// turned is the event that a replica ended something.
func (e *engine) turned(ev event) {
	b := ev.replica.batch
	if ev.version != b.version {
		return // something came in between, and another event was planned
	}
	b.advance(e.now)
	began, ended := b.turn()
	if began != nil {
		e.result.Firsts[began.index] = e.now
	}
	for _, c := range ended {
		e.ended(c.index, ev.replica)
	}
	e.plan(ev.replica)
	if ev.replica.stopping && ev.replica.busy == 0 {
		e.remove(ev.replica)
	}
	e.dispatch()
}
