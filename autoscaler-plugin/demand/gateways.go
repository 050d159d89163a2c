// Package demand queries gateways for the requests that they queue and serve, second by second, and
// merges their answers into one history.
package demand

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/autoscaler-plugin/guard"
	"aliquot.example/internal/api"
	"aliquot.example/internal/quantile"
)

// Second is the demand of a service in one second, over all gateways.
type Second struct {
	Queued, Active float64
	Class          map[string]float64 // of Active
	Tokens         Tokens
	// Arrived is the tokens of the arriving requests: prompts and expected responses. Met and
	// Missed are the requests that ended within the objective, and outside it.
	Arrived, Met, Missed float64
	// Times holds the latencies of the served requests, if the Span asks for them.
	Times Times
}

// Times holds the times to the first token, between two tokens, and to the end.
type Times struct{ TTFT, TPOT, E2E quantile.Sketch }

// Tokens are the tokens of the requests; see api.Point.
type Tokens struct {
	Queued, Active float64
	Class          map[string]float64 // of Active
}

// History is a service's demand by second, oldest first and without gaps.
type History struct {
	// First is the Unix second of the first entry.
	First   int64
	Seconds []Second
	// Answered is the first Unix second for which Arrived, Met and Missed are known for all
	// gateways. Before it, the counts of gateways that are gone or have restarted are missing,
	// although other gateways still remember their part of Queued and Active.
	Answered int64
	// NoAnswer names the sources whose silence cut the history short. Its text stays the same as long
	// as the cause does. It is "" if nothing is missing. Why has the details.
	NoAnswer string
	Why      error
}

// Span selects a part of a service's history.
type Span struct {
	Service  string
	From, To time.Time
	// Times means that Second.Times is needed too.
	Times bool
}

// Source returns a service's history. It leaves out seconds for which part of the demand is
// unknown, so the history may be shorter than the span.
type Source interface {
	History(ctx context.Context, s Span) (History, error)
}

// member is one gateway: its service ID in Consul and the address of its admin listener.
type member struct{ id, admin string }

// Gateways queries the admin listeners of all gateways and sums their answers.
type Gateways struct {
	// Consul is where gateways are looked up. It is nil with fixed addresses.
	Consul *consul.Client
	// Service is the name that gateways register as, and Rates the prefix in Consul KV under which
	// they publish what they learned.
	Service, Rates string
	HTTP           *http.Client
	// StaleAfter is the maximum age of the newest second of an answer.
	StaleAfter time.Duration
	// Fixed is the list of fixed admin addresses of gateways.
	Fixed []string

	mu sync.Mutex
	// last is the gateways that Consul last returned. While Consul is away they are queried, and
	// counts can grow but not shrink. A restarted plugin waits for Consul.
	last []member
}

// incompleteWindow is how much history is used while a gateway does not answer: enough to see
// that demand grows, too little for any policy to shrink.
const incompleteWindow = 30 * time.Second

// MaxAnswer bounds the size of an answer in bytes. A day of seconds is about 10 MB.
const MaxAnswer = 64 << 20

// History returns the sum of the gateways' answers.
func (g *Gateways) History(ctx context.Context, span Span) (History, error) {
	service, from, to := span.Service, span.From, span.To
	members, err := g.members(ctx, service, to)
	if err != nil {
		return History{}, err
	}
	// By the gateway's clock, the last second of an answer may be slightly after to.
	window := to.Sub(from) + 2*time.Second
	answers := make([]answer, len(members.known))
	var wait sync.WaitGroup
	for i, m := range members.known {
		wait.Go(func() { answers[i] = g.ask(ctx, m, span, window) })
	}
	wait.Wait()
	var sound []answer
	var failures []error
	var silent []string
	for i, a := range answers {
		switch {
		case a.err != nil:
			failures = append(failures, fmt.Errorf("gateway %s: %w", members.known[i].id, guard.Plain(a.err)))
			silent = append(silent, members.known[i].id)
		case a.known:
			sound = append(sound, a)
		}
	}
	if len(sound) == 0 {
		if len(failures) > 0 {
			return History{}, errors.Join(failures...)
		}
		return History{},
			fmt.Errorf("no gateway serves %q: is there a service block of that name in the gateways' configuration?",
				service)
	}
	each := sound
	sound, shared := mergeShared(sound)
	h, err := sum(sound, from, to, g.StaleAfter)
	if err != nil {
		return History{}, err
	}
	for _, a := range each {
		if err := h.addTimes(a.latencies); err != nil {
			return History{}, err
		}
	}
	h.Answered = h.First
	if shared { // the others remember the demand of a lost gateway, but not its arrivals and outcomes
		h.Answered = max(h.First, firstKnown(each), members.goneUntil.Unix())
	} else {
		h = h.Since(members.goneUntil)
	}
	if members.stale != nil {
		silent, failures = append(silent, "Consul"), append(failures, members.stale)
	}
	if len(failures) > 0 {
		h = h.Since(to.Add(-incompleteWindow))
		slices.Sort(silent)
		h.NoAnswer, h.Why = strings.Join(silent, ", "), errors.Join(failures...)
	}
	return h, nil
}

// Since drops the seconds before t, but always keeps the last one.
func (h History) Since(t time.Time) History {
	if n := min(t.Unix()-h.First, int64(len(h.Seconds)-1)); n > 0 {
		h.First, h.Seconds = h.First+n, h.Seconds[n:]
	}
	return h
}

// Answers drops the seconds for which arrivals and outcomes are not known.
func (h History) Answers() History { return h.Since(time.Unix(h.Answered, 0)) }

// answer is the answer of one gateway.
type answer struct {
	now    time.Time
	series []api.Point
	// known is false if the gateway does not serve the service.
	known bool
	// whole means that the series covers all gateways together. present is then this gateway's part
	// of the current second, for a service that was idle.
	whole     bool
	present   *api.Point
	latencies []api.Latency
	err       error
}

func (g *Gateways) ask(ctx context.Context, m member, span Span, window time.Duration) (a answer) {
	target := fmt.Sprintf("http://%s/v1/services/%s/concurrency?window=%ds", m.admin, url.PathEscape(span.Service),
		int(window.Seconds()))
	var body api.Concurrency
	found, err := g.get(ctx, target, &body)
	if err != nil || !found {
		a.err = err
		return a
	}
	a.known, a.whole, a.now, a.series = true, body.Whole, body.Now, body.Series
	for i := 1; i < len(a.series); i++ {
		if a.series[i].Time != a.series[i-1].Time+1 {
			a.err = fmt.Errorf("its series has no value for second %d: run gateway and plugin of the same release",
				a.series[i-1].Time+1)
			return a
		}
	}
	if span.Times {
		a.latencies, a.err = g.latencies(ctx, m, span.Service, window)
	}
	if a.err == nil && a.justStarted() {
		a.err = g.addPresent(ctx, m, span.Service, &a)
	}
	if a.err == nil {
		a.err = a.check()
	}
	return a
}

// maxFigure bounds every figure of an answer, so that no sum overflows.
const maxFigure = 1e15

// check returns an error for a figure that no gateway can have counted. A negative or excessive
// figure would affect a count.
func (a *answer) check() error {
	points := a.series
	if a.present != nil {
		points = append(slices.Clone(points), *a.present)
	}
	var figures []float64
	for _, p := range points {
		figures = append(figures[:0], p.Queued, p.Active, p.QueuedTokens, p.ActiveTokens)
		if t := p.Tokens; t != nil {
			figures = append(figures, float64(t.Arrived), float64(t.Met), float64(t.Missed))
		}
		for _, of := range p.Class {
			figures = append(figures, of.Active, of.Tokens)
		}
		for _, f := range figures {
			if !(f >= 0 && f <= maxFigure) {
				return fmt.Errorf("its value for second %d is %g: want 0 to %g", p.Time, f, maxFigure)
			}
		}
	}
	return nil
}

// justStarted reports whether the series shows no request before its newest second, so that a burst may
// have just begun.
func (a *answer) justStarted() bool {
	for i := max(0, len(a.series)-1-minHistory); i < len(a.series)-1; i++ {
		if a.series[i].Queued > 0 || a.series[i].Active > 0 {
			return false
		}
	}
	return true
}

const minHistory = 10

// addPresent adds the current second to the series of a service that was idle. The series does not
// include it yet, and contains only part of the second in which a burst began. Without it the first
// count would be set later or too low.
func (g *Gateways) addPresent(ctx context.Context, m member, service string, a *answer) error {
	var states []api.Service
	if found, err := g.get(ctx, "http://"+m.admin+"/v1/services", &states); err != nil || !found {
		return err
	}
	for _, s := range states {
		if s.Service != service {
			continue
		}
		p := api.Point{Time: a.now.Unix(), Queued: float64(s.Queued), QueuedTokens: float64(s.QueuedTokens),
			Class: map[string]api.ClassPoint{}}
		for class, n := range s.Active {
			held := float64(s.ActiveTokens[class])
			p.Active += float64(n)
			p.ActiveTokens += held
			p.Class[class] = api.ClassPoint{Active: float64(n), Tokens: held}
		}
		if a.whole {
			a.present = &p
			continue
		}
		if n := len(a.series); n == 0 || a.series[n-1].Time == p.Time-1 {
			a.series = append(a.series, p)
		}
	}
	return nil
}

// get reads JSON. It returns false for a 404.
func (g *Gateways) get(ctx context.Context, target string, into any) (found bool, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return false, err
	}
	response, err := g.HTTP.Do(request)
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return false, nil
	default:
		return false, fmt.Errorf("answers %s", response.Status)
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, MaxAnswer)).Decode(into); err != nil {
		return false, fmt.Errorf("cannot parse its response: %w", err)
	}
	return true, nil
}

// sum adds up the seconds that all gateways know, within from and to.
func sum(answers []answer, from, to time.Time, staleAfter time.Duration) (History, error) {
	first, last := from.Unix(), to.Unix()+1
	for _, a := range answers {
		if len(a.series) == 0 {
			return History{}, errors.New("a gateway has just started and has not seen a whole second")
		}
		newest := a.series[len(a.series)-1].Time
		if age := to.Sub(time.Unix(newest, 0)); age > staleAfter {
			return History{}, fmt.Errorf("a gateway's newest second is %s old: want at most %s; do the clocks agree?",
				age.Round(time.Second), staleAfter)
		}
		first, last = max(first, a.series[0].Time), min(last, newest)
	}
	if first > last {
		return History{}, errors.New("the gateways' series do not overlap yet")
	}
	h := History{First: first, Seconds: make([]Second, last-first+1)}
	for _, a := range answers {
		skip := first - a.series[0].Time
		for i, p := range a.series[skip : skip+int64(len(h.Seconds))] {
			h.Seconds[i].add(&p)
		}
	}
	return h, nil
}

func (s *Second) add(p *api.Point) {
	s.Queued += p.Queued
	s.Active += p.Active
	s.Tokens.Queued += p.QueuedTokens
	s.Tokens.Active += p.ActiveTokens
	if t := p.Tokens; t != nil {
		s.Arrived += float64(t.Arrived)
		s.Met += float64(t.Met)
		s.Missed += float64(t.Missed)
	}
	for class, of := range p.Class {
		if s.Class == nil {
			s.Class, s.Tokens.Class = map[string]float64{}, map[string]float64{}
		}
		s.Class[class] += of.Active
		s.Tokens.Class[class] += of.Tokens
	}
}
