package profiler

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"aliquot.example/internal/profile"
)

// Load is the measurement of a load of mean-sized requests: from callers that each wait for their
// response (closed loop), or at random times regardless of the server (open loop).
type Load struct {
	Open        bool    `json:"open,omitempty"`
	Concurrency int     `json:"concurrency,omitempty"`
	Offered     float64 `json:"offered_per_s,omitempty"`
	Rounds      int     `json:"rounds"`
	Answers     int     `json:"answers"`
	// Rate is responses per second.
	Rate    profile.Mean `json:"rate_per_s"`
	First50 float64      `json:"ttft_p50_s"`
	First99 float64      `json:"ttft_p99_s"`
	Pace50  float64      `json:"tpot_p50_s,omitempty"`
	Pace99  float64      `json:"tpot_p99_s,omitempty"`
	Took50  float64      `json:"e2e_p50_s"`
	Took99  float64      `json:"e2e_p99_s"`
	// Within is the part of the responses that met the objective.
	Within float64 `json:"within"`
	// Expected is the rate that the curves predict, 0 without curves.
	Expected float64 `json:"expected_rate_per_s,omitempty"`

	rates []float64
	all   []profile.Answer
}

// Tokens returns the output tokens per second, 0 if responses have no tokens.
func (l *Load) Tokens() float64 {
	var made float64
	for i := range l.all {
		if l.all[i].Asked > 0 {
			made += float64(l.all[i].Made())
		}
	}
	if len(l.all) == 0 {
		return 0
	}
	return l.Rate.Value * made / float64(len(l.all))
}

// load measures the server under load: a closed loop with more and more callers, then random
// arrivals at openPart of the expected capacity.
func (r *runner) load(ctx context.Context) error {
	mean := profile.Cell{Prompt: r.Prompt, Output: r.Output}
	loads := r.closedLoads(mean)
	if err := r.closedLoops(ctx, mean, loads); err != nil {
		return err
	}
	for _, l := range loads {
		if len(l.rates) > 0 {
			l.Rounds = len(l.rates)
			r.sum(l)
			r.report.Closed = append(r.report.Closed, *l)
		}
	}
	r.openLoop(ctx, mean)
	return nil
}

// closedLoads returns the closed loops that the server can take. The report lists the others.
func (r *runner) closedLoads(mean profile.Cell) (loads []*Load) {
	for _, n := range r.Design.Concurrencies {
		mean.Concurrency = n
		if mean.Beyond(r.limits()) != "" {
			r.report.Left = append(r.report.Left, describe(mean)+" in a closed loop: the server refuses it")
			continue
		}
		loads = append(loads, &Load{Concurrency: n, Expected: r.expectedRate(float64(n))})
	}
	return loads
}

// closedLoops runs rounds of each load until all are known well enough or their part of the time is
// spent. It fails if not even a single caller gets responses.
func (r *runner) closedLoops(ctx context.Context, mean profile.Cell, loads []*Load) error {
	part := shareClosed
	if r.Post != nil {
		part = 0.7
	}
	for open := true; open && !r.timeUp(ctx, part); {
		open = false
		for _, l := range loads {
			if r.timeUp(ctx, part) || l.Rounds > 0 && r.Rounds.Done(l.Rounds, l.rates) || r.tooLong(l, part) {
				continue
			}
			open = true
			r.progress("closed loop", (part+1)/2*r.Time.Seconds()-time.Since(r.began).Seconds())
			mean.Concurrency = l.Concurrency
			err := r.closed(ctx, mean, l)
			if ctx.Err() != nil {
				break
			}
			if err = r.closedFailed(l, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// closedFailed ends a load after a failed round. Earlier rounds of it still count. It returns the
// error if there are none and the load is a single caller.
func (r *runner) closedFailed(l *Load, err error) error {
	if err == nil {
		return nil
	}
	if l.Rounds = r.Rounds.Max; len(l.rates) > 0 {
		return nil
	}
	r.report.Left = append(r.report.Left, fmt.Sprintf("%d callers: %v", l.Concurrency, err))
	if l.Concurrency == 1 {
		return err
	}
	return nil
}

// tooLong reports whether another round of a load would exceed its part of the time.
func (r *runner) tooLong(l *Load, part float64) bool {
	rate := l.Expected
	if len(l.rates) > 0 {
		rate = l.rates[len(l.rates)-1]
	}
	return rate > 0 && perCaller*float64(l.Concurrency)/rate > part*r.Time.Seconds()-time.Since(r.began).Seconds()
}

func (r *runner) expectedRate(n float64) float64 {
	if r.report.Curve == nil {
		return 0
	}
	rate, _, _ := r.report.Curve.At(n)
	return rate
}

// one sends a request of mean size.
func (r *runner) one(ctx context.Context, c profile.Cell) (profile.Answer, error) {
	if r.Post != nil {
		return r.Server.post(ctx, r.began, r.Post.Path, r.Post.Body)
	}
	return r.ask(ctx, r.words(r.scale.Words(c.Prompt)), c.Output)
}

// perCaller is how many requests per caller a round of a closed loop has.
const perCaller = 4

// closed runs one round: n callers send perCaller requests each. The rate comes from the middle
// half of the responses.
func (r *runner) closed(ctx context.Context, c profile.Cell, l *Load) error {
	n := c.Concurrency
	answers, errs := make([]profile.Answer, perCaller*n), make([]error, perCaller*n)
	next := make(chan int, perCaller*n)
	for i := range answers {
		next <- i
	}
	close(next)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var callers sync.WaitGroup
	for range n {
		callers.Go(func() {
			for i := range next {
				if answers[i], errs[i] = r.one(ctx, c); errs[i] != nil {
					cancel()
				}
			}
		})
	}
	callers.Wait()
	if err := r.judge(answers, errs); err != nil {
		return err
	}
	ends := make([]float64, len(answers))
	for i := range answers {
		ends[i] = answers[i].End
	}
	slices.Sort(ends)
	l.Rounds++
	began, ended := ends[n-1], ends[(perCaller-1)*n-1]
	l.rates = append(l.rates, (perCaller-2)*float64(n)/max(ended-began, 1e-9))
	for i := range answers {
		// Leave out the first requests, which all start at once, and the end, when callers stop one
		// by one.
		if answers[i].Sent >= answers[0].Sent+1e-9 && answers[i].End <= ended || n == 1 && i > 0 {
			l.all = append(l.all, answers[i])
		}
	}
	return nil
}

// sum evaluates the responses of a load.
func (r *runner) sum(l *Load) {
	l.Rate, l.Answers = profile.MeanOf(l.rates), len(l.all)
	var first, pace, took []float64
	met := 0
	for i := range l.all {
		a := &l.all[i]
		first, took = append(first, a.First()), append(took, a.Took())
		if p := a.Pace(); p > 0 {
			pace = append(pace, p)
		}
		if r.Objective.met(a) {
			met++
		}
	}
	l.First50, l.First99 = profile.Quantile(first, 0.5), profile.Quantile(first, 0.99)
	l.Pace50, l.Pace99 = profile.Quantile(pace, 0.5), profile.Quantile(pace, 0.99)
	l.Took50, l.Took99 = profile.Quantile(took, 0.5), profile.Quantile(took, 0.99)
	l.Within = float64(met) / float64(max(1, len(l.all)))
}

func (o Objective) met(a *profile.Answer) bool {
	within := func(seconds float64, limit time.Duration) bool { return limit <= 0 || seconds <= limit.Seconds() }
	return within(a.First(), o.TTFT) && within(a.Pace(), o.TPOT) && within(a.Took(), o.E2E)
}

const (
	// openPart is the part of the server's capacity that the open loop offers.
	openPart = 0.8
	// openSpan is the approximate duration of the open loop in seconds. minOpen and maxOpen bound
	// its number of requests.
	openSpan = 30
	minOpen  = 20
	maxOpen  = 400
)

// openLoop sends requests at random times without waiting for responses. Times count from when a
// request was due, not from when it was sent.
func (r *runner) openLoop(ctx context.Context, c profile.Cell) {
	rate := r.offered()
	if rate <= 0 || r.timeUp(ctx, 1) {
		return
	}
	left := (r.Time - time.Since(r.began)).Seconds()
	n := int(min(max(rate*openSpan, minOpen), maxOpen, rate*left))
	if n < minOpen/2 {
		r.report.note("no time was left to measure an open loop")
		return
	}
	r.progress("open loop", float64(n)/rate)
	answers, errs := make([]profile.Answer, n), make([]error, n)
	due := time.Now()
	first := due
	var calls sync.WaitGroup
	sent := 0
	for ; sent < n; sent++ {
		due = due.Add(time.Duration(r.random.ExpFloat64() / rate * float64(time.Second)))
		select {
		case <-time.After(time.Until(due)):
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		i, at := sent, due.Sub(r.began).Seconds()
		calls.Go(func() {
			answers[i], errs[i] = r.one(ctx, c)
			answers[i].Sent = at
		})
	}
	calls.Wait()
	r.judge(answers[:sent], errs[:sent])
	l := Load{Open: true, Offered: rate, Rounds: 1}
	for i := range answers[:sent] {
		if errs[i] == nil {
			l.all = append(l.all, answers[i])
		}
	}
	if len(l.all) == 0 {
		return
	}
	last := slices.MaxFunc(l.all, func(a, b profile.Answer) int { return int(1e6 * (a.End - b.End)) })
	l.rates = []float64{float64(len(l.all)) / max(last.End-first.Sub(r.began).Seconds(), 1e-9)}
	r.sum(&l)
	r.report.Open = append(r.report.Open, l)
}

// offered returns the request rate of the open loop: openPart of the rate within the objective by
// the curves, or by the closed loop if there are no curves.
func (r *runner) offered() float64 {
	if r.report.Curve != nil {
		if _, rate := r.Objective.most(*r.report.Curve); rate > 0 {
			return openPart * rate
		}
	}
	most := 0.0
	for i := range r.report.Closed {
		if l := &r.report.Closed[i]; l.Within >= 0.99 {
			most = max(most, l.Rate.Value)
		}
	}
	return openPart * most
}
