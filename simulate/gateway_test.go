package simulate

import (
	"slices"
	"testing"
	"time"
)

// pair is two replicas of one class, both ready.
func pair(cfg Config, trace ...Request) Result {
	cfg.Classes = []Class{{Name: "h100", Initial: 2, Curve: &engineCurve}}
	return Run(cfg, trace, fixed{counts: []int{2}})
}

// A long prompt beside a short answer would make its tokens late. The gateway, which knows the
// objective, sends it to the other replica; a proxy sends it where there are fewer requests.
func TestTheGatewayKeepsTokensInTimeAndAProxyDoesNot(t *testing.T) {
	objective := Objective{TTFT: 3 * time.Second, TPOT: 50 * time.Millisecond}
	trace := []Request{
		tokens(0, 20_000, 400), // alone on its replica for seconds
		tokens(0.01, 100, 60), tokens(0.02, 100, 60), tokens(0.03, 100, 60),
		tokens(0.6, 8_000, 10),
	}
	within := func(r Result) (n int) {
		for i := range trace {
			if objective.met(trace[i], r.Firsts[i], r.Ends[i]) {
				n++
			}
		}
		return n
	}
	ours := within(pair(Config{Objective: objective}, trace...))
	proxy := within(pair(Config{Objective: objective, LeastRequests: true}, trace...))
	if ours <= proxy {
		t.Errorf("%d of %d within the objective behind the gateway, and %d behind a proxy", ours, len(trace), proxy)
	}
}

func TestAProxySendsToTheFewestRequestsAtOnce(t *testing.T) {
	r := pair(Config{LeastRequests: true}, tokens(0, 1000, 500), tokens(0.1, 1000, 500), tokens(0.2, 1000, 500))
	if !slices.Equal(r.Waits, make([]time.Duration, 3)) {
		t.Errorf("waits %v, want none", r.Waits)
	}
	// The first two are alone, and the third joins the first.
	if r.Ends[1]-100*time.Millisecond >= r.Ends[0] {
		t.Errorf("the first ended after %v, the second after %v: the third should delay the first", r.Ends[0],
			r.Ends[1]-100*time.Millisecond)
	}
}

// What does not fit into a cache waits at the replica, and what is longer than the cache is served
// alone.
func TestWhatDoesNotFitWaits(t *testing.T) {
	for name, cfg := range map[string]Config{"gateway": {}, "proxy": {LeastRequests: true}} {
		small := engineCurve
		small.KV = 10_000
		cfg.Classes = []Class{{Name: "h100", Initial: 1, Curve: &small}}
		trace := []Request{tokens(0, 6000, 200), tokens(0.1, 6000, 200), tokens(0.2, 50_000, 10)}
		r := Run(cfg, trace, fixed{counts: []int{1}})
		for i := 1; i < len(trace); i++ {
			if r.Firsts[i] < r.Ends[i-1] {
				t.Errorf("%s: request %d began at %v, before request %d ended at %v", name, i, r.Firsts[i], i-1, r.Ends[i-1])
			}
		}
	}
}

func TestAReplayIsTheSameEachTime(t *testing.T) {
	var trace []Request
	for i := range 300 {
		trace = append(trace, tokens(float64(i)/20, 200+37*i%3000, 20+13*i%200))
	}
	cfg := Config{Objective: Objective{TTFT: time.Second, TPOT: 40 * time.Millisecond}}
	first := pair(cfg, trace...)
	for range 3 {
		if again := pair(cfg, trace...); !slices.Equal(first.Ends, again.Ends) || !slices.Equal(first.Firsts, again.Firsts) {
			t.Fatal("two replays of one trace differ")
		}
	}
}

// While no replica is there, nothing has to be looked at: a long cold start takes no time to replay.
func TestNothingIsLookedAtWithoutReplicas(t *testing.T) {
	var trace []Request
	for range 100 {
		trace = append(trace, tokens(0, 1000, 10))
	}
	class := Class{Name: "h100", ColdStart: 12 * time.Hour, Curve: &engineCurve}
	cfg := Config{Classes: []Class{class}}
	e := &engine{cfg: cfg, trace: trace, dispatcher: newDispatcher(cfg, trace), sent: make([]bool, len(trace))}
	for range trace {
		e.arrive()
		e.dispatch()
	}
	if e.look != 0 {
		t.Errorf("looks again at %v without replicas", e.look)
	}
}

// Two classes of one name are still two classes.
func TestClassesMayShareAName(t *testing.T) {
	slow := engineCurve
	slow.Prefill, slow.A = 20*slow.Prefill, 20*slow.A
	named := func(a, b string) Result {
		classes := []Class{{Name: a, Initial: 1, Curve: &engineCurve}, {Name: b, Initial: 1, Curve: &slow}}
		return Run(Config{Classes: classes}, []Request{tokens(0, 1000, 10), tokens(5, 1000, 10), tokens(10, 1000, 10)},
			fixed{counts: []int{1, 1}})
	}
	if one, two := named("a", "a"), named("a", "b"); !slices.Equal(one.Ends, two.Ends) {
		t.Errorf("with one name %v, with two %v", one.Ends, two.Ends)
	}
}
