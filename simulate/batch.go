package simulate

import (
	"container/heap"
	"math"
	"time"

	"aliquot.example/internal/learned"
)

// batch is the state of a replica whose engine batches. It reads its prompts one after the other
// (prefill). While it has no prompt to read, it makes decoding steps: each response gets one token
// per step. Prefill therefore delays all responses. The times are those of a learned.Curve.
type batch struct {
	curve learned.Curve
	at    time.Duration // time up to which the state is computed
	// waiting is the requests that do not fit yet, in order.
	waiting []*call
	// prefilling is the requests whose prompts are not read yet. left is the remaining seconds for the
	// first of them.
	prefilling []*call
	left       float64
	decoding   calls   // decoding requests, the next to end first
	steps      float64 // since the start
	kv         float64 // tokens in the cache, of the decoding requests
	held       float64 // tokens that prefilling and decoding requests will have in the cache at their end
	// version changes with every change, so that an outdated event can be recognized.
	version int
}

// call is a request at a replica.
type call struct {
	index          int // in the trace
	prompt, output float64
	end            float64 // number of the step of its last token
}

// calls is a heap, ordered by end.
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

// fits reports whether the engine can work on a request beside those that it works on. An idle
// engine takes any request.
func (b *batch) fits(c *call) bool {
	n := len(b.prefilling) + len(b.decoding)
	if n == 0 {
		return true
	}
	return n < b.slots() && (b.curve.KV == 0 || b.held+c.prompt+c.output <= b.curve.KV)
}

// slots returns how many requests the engine works on at once.
func (b *batch) slots() int {
	if b.curve.Slots > 0 {
		return int(max(1, min(b.curve.Slots, 1e15)))
	}
	return defaultBatch
}

// defaultBatch is the default maximum of concurrent requests of engines.
const defaultBatch = 256

func (b *batch) add(now time.Duration, index int, q Request) {
	b.advance(now)
	b.waiting = append(b.waiting, &call{
		index: index, prompt: float64(max(1, q.InputTokens)), output: float64(max(1, q.OutputTokens)),
	})
	b.admit()
	b.version++
}

// admit lets waiting requests in, in order, as long as they fit.
func (b *batch) admit() {
	for len(b.waiting) > 0 && b.fits(b.waiting[0]) {
		c := b.waiting[0]
		b.waiting = b.waiting[1:]
		if b.prefilling = append(b.prefilling, c); len(b.prefilling) == 1 {
			b.left = b.curve.PrefillTime(c.prompt)
		}
		b.held += c.prompt + c.output
	}
}

// advance computes the state at now. Nothing may begin or end before now.
func (b *batch) advance(now time.Duration) {
	seconds := (now - b.at).Seconds()
	b.at = now
	switch n := float64(len(b.decoding)); {
	case len(b.prefilling) > 0:
		b.left -= seconds
	case n > 0:
		steps := b.stepsIn(seconds)
		b.steps += steps
		b.kv += n * steps
	}
}

// stepsIn returns the number of steps in a number of seconds. m steps take m (A + B n + C kv) + C n
// m²/2 seconds, because each step adds n tokens to the cache.
func (b *batch) stepsIn(seconds float64) float64 {
	first := b.curve.StepTime(float64(len(b.decoding)), b.kv)
	half := b.curve.C * float64(len(b.decoding)) / 2
	if half*seconds < 1e-12*first*first {
		return seconds / first
	}
	return (math.Sqrt(first*first+4*half*seconds) - first) / (2 * half)
}

// next returns when the current prefill or the first response ends.
func (b *batch) next() (at time.Duration, busy bool) {
	var seconds float64
	switch {
	case len(b.prefilling) > 0:
		seconds = b.left
	case len(b.decoding) > 0:
		n := float64(len(b.decoding))
		m := max(0, b.decoding[0].end-b.steps)
		seconds = m*b.curve.StepTime(n, b.kv) + b.curve.C*n*m*m/2
	default:
		return 0, false
	}
	// Round up, so that it has ended at that time.
	return b.at + lasting(math.Ceil(max(0, seconds)*1e9)), true
}

// turn ends what is due: the prefill of one prompt, whose request then decodes, and responses.
func (b *batch) turn() (began *call, ended []*call) {
	b.version++
	if len(b.prefilling) > 0 && b.left < 1e-8 {
		began = b.prefilling[0]
		b.prefilling = b.prefilling[1:]
		if len(b.prefilling) > 0 {
			b.left = b.curve.PrefillTime(b.prefilling[0].prompt)
		}
		began.end = b.steps + began.output - 1
		heap.Push(&b.decoding, began)
		b.kv += began.prompt + 1
	}
	for len(b.decoding) > 0 && b.decoding[0].end <= b.steps+1e-6 {
		c := heap.Pop(&b.decoding).(*call)
		b.kv -= c.prompt + c.output
		b.held -= c.prompt + c.output
		ended = append(ended, c)
	}
	if len(b.decoding) == 0 {
		b.kv = 0
	}
	b.admit()
	return began, ended
}

// use returns the part of the cache in use, 0 if its size is unknown.
func (b *batch) use() float64 {
	if b.curve.KV == 0 {
		return 0
	}
	read := 0.0
	for _, c := range b.prefilling {
		read += c.prompt
	}
	return min(1, (b.kv+read)/b.curve.KV)
}

// plan schedules the next event of a replica.
func (e *engine) plan(r *replica) {
	if at, busy := r.batch.next(); busy {
		e.push(event{at: at, kind: eventTurn, replica: r, version: r.batch.version})
	}
}

// turned handles the event of a prefill or a response that ends.
func (e *engine) turned(ev event) {
	b := ev.replica.batch
	if ev.version != b.version {
		return // outdated: a later change scheduled another event
	}
	b.advance(e.now)
	began, ended := b.turn()
	if began != nil {
		e.result.Firsts[began.index] = e.now
	}
	e.dispatcher.progress(b, e.now)
	for _, c := range ended {
		e.dispatcher.ended(c, e.now)
		e.ended(c.index, ev.replica)
	}
	e.plan(ev.replica)
	if ev.replica.stopping && ev.replica.busy == 0 {
		e.remove(ev.replica)
	}
	e.dispatch()
}
