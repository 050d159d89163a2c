package gateway

import (
	"sync"
	"time"

	"aliquot.example/internal/api"
)

// sample has the figures of one finished request to a language model.
type sample struct {
	attainment             attainment
	ttft, tpot             time.Duration
	began, timed           bool // ttft and tpot are known
	prompt, cached, output int64
	estimated              bool // the engine did not report all of them
}

// keptSeconds is the number of stored seconds, the same as for concurrency.
const keptSeconds = 3600

// tokenSeries sums up the requests that arrived or ended in each of the last seconds.
type tokenSeries struct {
	mu   sync.Mutex
	ring [keptSeconds]tokenSecond
}

type tokenSecond struct {
	second                 int64
	arrived                int64
	ended, met, missed     int
	began, went            int
	ttft, tpot             time.Duration // sums
	prompt, cached, output int64
}

// now returns the present second. The caller holds mu.
func (t *tokenSeries) now(now time.Time) *tokenSecond {
	second := now.Unix()
	p := &t.ring[second%keptSeconds]
	if p.second != second {
		*p = tokenSecond{second: second}
	}
	return p
}

// arrive adds the tokens of an arriving request.
func (t *tokenSeries) arrive(now time.Time, tokens int) {
	t.mu.Lock()
	t.now(now).arrived += int64(tokens)
	t.mu.Unlock()
}

// withdraw subtracts the tokens of a request that arrived at came and was turned away.
func (t *tokenSeries) withdraw(came time.Time, tokens int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := &t.ring[came.Unix()%keptSeconds]; p.second == came.Unix() {
		p.arrived -= int64(tokens)
	}
}

func (t *tokenSeries) add(now time.Time, s *sample) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.now(now)
	p.ended++
	switch s.attainment {
	case met:
		p.met++
	case missed:
		p.missed++
	}
	if s.began {
		p.began++
		p.ttft += s.ttft
	}
	if s.timed {
		p.went++
		p.tpot += s.tpot
	}
	p.prompt += s.prompt
	p.cached += s.cached
	p.output += s.output
}

// at returns a second, nil if no request arrived or ended in it.
func (t *tokenSeries) at(second int64) *api.Tokens {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := &t.ring[second%keptSeconds]
	if p.second != second {
		return nil
	}
	return p.point()
}

// last returns the sum of the given number of seconds before the present one.
func (t *tokenSeries) last(now time.Time, seconds int64) *api.Tokens {
	t.mu.Lock()
	defer t.mu.Unlock()
	var sum tokenSecond
	for second := now.Unix() - seconds; second < now.Unix(); second++ {
		p := &t.ring[second%keptSeconds]
		if p.second != second {
			continue
		}
		sum.arrived += p.arrived
		sum.ended += p.ended
		sum.met += p.met
		sum.missed += p.missed
		sum.began += p.began
		sum.went += p.went
		sum.ttft += p.ttft
		sum.tpot += p.tpot
		sum.prompt += p.prompt
		sum.cached += p.cached
		sum.output += p.output
	}
	return sum.point()
}

func (p *tokenSecond) point() *api.Tokens {
	out := &api.Tokens{Arrived: p.arrived, Ended: p.ended, Met: p.met, Missed: p.missed, Prompt: p.prompt,
		Cached: p.cached, Output: p.output}
	if p.began > 0 {
		out.TTFT = p.ttft.Seconds() / float64(p.began)
	}
	if p.went > 0 {
		out.TPOT = p.tpot.Seconds() / float64(p.went)
	}
	return out
}
