package gateway

import (
	"io"
	"time"

	"aliquot.example/gateway/match"
	"aliquot.example/internal/dispatch"
	"aliquot.example/internal/meter"
	"aliquot.example/internal/prompt"
)

// reading follows one request to a language model and its answer.
type reading struct {
	service   *language
	size      prompt.Size
	prompt    int       // estimated tokens of the prompt
	expected  int       // expected tokens of the answer
	asked     time.Time // when the whole request had arrived
	countedAt time.Time // when the request was counted as arrived
	arrived   int       // tokens counted as arrived, 0 if it was not counted
	meter     meter.Meter
	answered  bool // a successful answer has begun
	first     time.Time
	last      time.Time
	metrics   *classMetrics
	charged   float64 // tokens charged to the tenant's allowance
	whole     bool    // the client gets the answer in one piece
}

// read sizes a request for the queue. The prompt length in a client's header counts for rules. It
// counts as the request's tokens only if the tenant may declare costs.
func (x *exchange) read(f *match.Facts, tenant string, declares bool) {
	l := x.service.language
	if l == nil {
		return
	}
	r := &reading{service: l, size: l.size(x, tenant), asked: time.Now()}
	r.whole = !r.size.Streamed
	r.size.Streamed = r.size.Streamed || x.edits.joins
	tokens, output := l.estimate(&r.size)
	switch declared := len(x.in.Header[match.HeaderPrompt]) > 0; {
	case !declared:
		f.Prompt = int64(tokens)
	case declares:
		tokens = int(min(f.Prompt, 1<<31))
	}
	r.prompt, r.expected = tokens, output
	x.reading = r
}

// ask sets the tokens of the request for the queue. A request without an objective does not count
// as arrived: it uses what is left and starts no replicas.
func (r *reading) ask(q *dispatch.Request) {
	if q.Priority <= r.service.promised {
		r.countedAt, r.arrived = r.asked, r.prompt+r.expected
		r.service.series.arrive(r.countedAt, r.arrived)
	}
	q.Prompt, q.Output = r.prompt, r.expected
	q.Blocks, q.Whole = r.size.Blocks, !r.size.Streamed
}

// turnedAway removes the request from the arrived ones: a client that repeats a refused request is
// not demand.
func (r *reading) turnedAway() {
	if r != nil && r.arrived > 0 {
		r.service.series.withdraw(r.countedAt, r.arrived)
		r.arrived = 0
	}
}

// listen starts to follow an answer.
func (r *reading) listen(x *exchange) {
	h := x.answer.from.Header
	r.meter = meter.New(h.Get("Content-Type"), h.Get("Content-Encoding"))
	r.answered = x.answer.from.StatusCode/100 == 2
	r.metrics = classMetricsOf(x.pass.Endpoint)
}

// readPart reads the next piece of an answer, with the error of the read.
func (r *reading) readPart(x *exchange, p []byte, err error) {
	if !r.answered {
		return
	}
	if r.meter.Feed(p) > 0 {
		r.last = time.Now()
		if r.first.IsZero() {
			r.first = r.last
			r.metrics.firsts.add(r.metrics.class, r.first.Sub(x.attempts.began), float64(r.prompt))
			r.service.began(x)
		}
		r.service.progress(x, int(min(r.meter.Tokens(), r.maxOutput())))
	}
	if err == io.EOF {
		r.meter.End()
		r.settle(x)
	}
}

// settle reports the tokens of the finished request to the queue and the service.
func (r *reading) settle(x *exchange) {
	u := r.used()
	output, _ := r.output()
	r.service.settle(x, int(u.Prompt), int(u.Cached), int(output))
	r.service.learn(&r.size, u.Prompt, output)
}

// Limits of the tokens that a request can have used. Larger numbers of an engine are ignored: a
// single one would spoil what is learned, and a tenant's account.
const (
	promptOverhead = 1 << 16 // tokens that an engine adds to a prompt
	unreadPrompt   = 1 << 20 // the prompt in a body that was not read, for example a compressed one
	maxEach        = 1 << 20 // one answer without a limit
	slack          = 8       // factor over the size of the request
)

// maxPrompt returns the largest plausible number of tokens of the prompt.
func (r *reading) maxPrompt() int64 {
	s := &r.size
	most := slack*s.Text + s.IDs + promptOverhead*(s.Media+1)
	if s.API == prompt.Opaque {
		most += unreadPrompt
	}
	return max(most, r.service.longest.Load())
}

// maxOutput returns the largest plausible number of tokens of all answers to the request.
func (r *reading) maxOutput() int64 {
	s := &r.size
	if s.Limit == 0 {
		return maxEach
	}
	answers := s.Answers
	if s.API == prompt.Completions {
		answers *= max(1, s.Text+s.IDs) // a body can contain this many prompts
	}
	return min(slack*s.Limit*answers, maxEach)
}

// used returns the usage that the engine reported, without implausible numbers.
func (r *reading) used() meter.Usage {
	u := r.meter.Usage()
	most := r.maxPrompt()
	if u.Prompt > most {
		u.Prompt = -1
	}
	if u.Cached > most {
		u.Cached = -1
	}
	if u.Output > r.maxOutput() {
		u.Output = -1
	}
	return u
}

// output returns the number of tokens of the answer, -1 if unknown, and whether the engine reported
// it.
func (r *reading) output() (tokens int64, known bool) {
	switch u := r.used(); {
	case u.Output >= 0:
		return u.Output, true
	case r.size.API == prompt.Embeddings:
		return 0, true
	case r.meter.Streams() && r.meter.Tokens() <= r.maxOutput():
		return r.meter.Tokens(), false
	case !r.meter.Streams() && r.meter.Text() > 0:
		return r.meter.Text() / 4, false
	}
	return -1, false
}

// streams reports whether the answer is a stream of tokens that has begun.
func (r *reading) streams() bool { return r.answered && r.meter.Streams() }

// unlimited is the assumed limit of tokens for a request without a limit, to decide whether its
// replica hangs.
const unlimited = 4096

// most returns the limit of tokens of the answer.
func (r *reading) most() float64 {
	switch {
	case !r.size.API.Generates():
		return 0
	case r.size.Limit > 0:
		return float64(r.size.Limit * r.size.Answers)
	}
	return float64(unlimited * r.size.Answers)
}

// generated returns the number of tokens of the answer, 0 if they are not counted.
func (x *exchange) generated() float64 {
	if x.reading == nil {
		return 0
	}
	output, _ := x.reading.output()
	return float64(max(0, output))
}

// ttft returns the time from the complete request to the first token.
func (r *reading) ttft() (time.Duration, bool) {
	if r.first.IsZero() {
		return 0, false
	}
	return r.first.Sub(r.asked), true
}

// tpot returns the mean time between the tokens of a stream after the first.
func (r *reading) tpot() (time.Duration, bool) {
	output, _ := r.output()
	if r.first.IsZero() || output < 2 {
		return 0, false
	}
	return r.last.Sub(r.first) / time.Duration(output-1), true
}

// attainment is whether a request met the objective.
type attainment int

const (
	unjudged attainment = iota
	met
	missed
)

// metObjective returns whether a finished request met the objective.
//
// A request that the gateway or the replica failed to serve missed the objective. An invalid
// request, or one that the client ended, does not count.
func (r *reading) metObjective(x *exchange, ended time.Time) attainment {
	switch {
	case !r.promised(x.request.Priority):
		return unjudged
	case x.outcome.replicaFailed():
		return missed
	case x.outcome != served:
		return unjudged
	case x.writer.status >= 500:
		return missed
	case !r.answered:
		return unjudged
	case r.meter.Streams() && !r.whole:
		return r.streamMet(ended.Sub(r.asked))
	}
	return r.wholeMet(ended.Sub(r.asked))
}

// promised reports whether the service has an objective for such a request.
func (r *reading) promised(priority int) bool {
	l := r.service
	return (l.objective != (dispatch.SLO{}) || l.e2e > 0) && r.size.API.Generates() && priority <= l.promised
}

// replicaFailed reports whether the gateway or the replica failed to serve the request.
func (o outcome) replicaFailed() bool {
	switch o {
	case queueFull, tooLate, noClass, expired, unreachable, broken, timedOut, overdue, shortage, shutDown:
		return true
	}
	return false
}

// streamMet judges a finished stream. It must begin in time and continue in time.
func (r *reading) streamMet(took time.Duration) attainment {
	first, began := r.ttft()
	if !began {
		return unjudged
	}
	each, _ := r.tpot()
	o := r.service.objective
	return attainmentIf(within(first, o.TTFT) && within(each, o.TPOT) && within(took, r.service.e2e))
}

// wholeMet judges an answer in one piece, which has as much time as a stream of its length.
func (r *reading) wholeMet(took time.Duration) attainment {
	o, e2e := r.service.objective, r.service.e2e
	output, _ := r.output()
	each := o.TTFT > 0 && o.TPOT > 0 && output >= 0 // the objective limits the time of its tokens
	if !each && e2e == 0 {
		return unjudged
	}
	return attainmentIf(within(took, e2e) && (!each || took <= o.TTFT+time.Duration(output)*o.TPOT))
}

// within reports whether something took no longer than a limit, of which 0 is none.
func within(took, limit time.Duration) bool { return limit == 0 || took <= limit }

func attainmentIf(ok bool) attainment {
	if ok {
		return met
	}
	return missed
}

// close records the finished request.
func (r *reading) close(x *exchange) {
	now := time.Now()
	s := sample{attainment: r.metObjective(x, now)}
	s.ttft, s.began = r.ttft()
	s.tpot, s.timed = r.tpot()
	if s.began {
		r.metrics.ttft.Observe(s.ttft.Seconds())
	}
	if s.timed {
		r.metrics.tpot.Observe(s.tpot.Seconds())
	}
	x.service.metrics.judged(x.class, s.attainment)
	if r.answered {
		u := r.used()
		var known bool
		s.prompt, s.cached = u.Prompt, max(u.Cached, 0)
		s.output, known = r.output()
		if s.estimated = u.Prompt < 0 || !known; u.Prompt < 0 {
			s.prompt = int64(r.prompt)
		}
		s.cached = min(s.cached, s.prompt)
		if s.output < 0 {
			s.output = int64(r.expected)
		}
		x.charged(&s)
	}
	if r.charged > 0 {
		x.server.allowances.settle(x.request.Tenant, x.plan.tenants.named(x.request.Tenant),
			x.plan.tenants.bound(x.request.Tenant), r.charged, float64(s.prompt+s.output), now)
		x.server.spend(x.request.Tenant, float64(s.prompt+s.output)-r.charged)
	}
	r.service.series.add(now, &s)
}
