package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"aliquot.example/internal/dispatch"
)

// The objective of every request.
const (
	ttftLimit = 2 * time.Second
	tpotLimit = 100 * time.Millisecond
)

// contestant makes a policy for one replay.
type contestant struct {
	name string
	make func(*rand.Rand, conditions) policy
	peer bool
}

// peer makes a policy that no condition affects.
func peer(of func(*rand.Rand) policy) func(*rand.Rand, conditions) policy {
	return func(random *rand.Rand, _ conditions) policy { return of(random) }
}

// objective is the policy that knows what the requests are judged by.
var objective = dispatch.Policy{Mode: dispatch.Tokens, SLO: dispatch.SLO{TTFT: ttftLimit, TPOT: tpotLimit}}

var contestants = []contestant{
	{"round-robin", peer(roundRobin), true},
	{"least-request", peer(leastRequest), true},
	{"weighted-least", peer(weightedLeast), true},
	{"power-of-two", peer(powerOfTwo), true},
	{"epp", peer(newEndpointPicker), true},
	{"dynamo", peer(dynamo), true},
	{"mooncake", peer(mooncake), true},
	{"sglang", peer(sglang), true},
	{"aibrix", peer(aibrix), true},
	{"aliquot-slots", product(dispatch.Policy{Mode: dispatch.Slots}), false},
	{"aliquot", product(dispatch.Policy{Mode: dispatch.Tokens}), false},
	{"aliquot-slo", product(objective), false},
}

func policyNames() []string {
	var out []string
	for _, c := range contestants {
		out = append(out, c.name)
	}
	return out
}

// race is a fleet at a load, replayed with each of several seeds.
type race struct {
	fleet    fleet
	trace    []traced
	rate     float64
	requests int
	seeds    int
	poisson  bool
	how      conditions
}

// outcome sums up the replays of one contestant.
type outcome struct {
	within      float64 // share of requests
	goodput     float64 // requests within the objective per second
	e2e         time.Duration
	ttft50      time.Duration
	ttft99      time.Duration
	tpot99      time.Duration
	hit         float64 // share of prompt tokens
	preemptions int     // per replay
	took        time.Duration
}

// run replays the race for every contestant, as many at a time as there are CPUs.
func (r race) run(all []contestant) []outcome {
	results := make([][]*sim, len(all))
	took := make([]time.Duration, len(all))
	var wait sync.WaitGroup
	var mu sync.Mutex
	slots := make(chan struct{}, runtime.NumCPU())
	for i, c := range all {
		results[i] = make([]*sim, r.seeds)
		for seed := range r.seeds {
			wait.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				begin := time.Now()
				results[i][seed] = r.replay(c, uint64(seed+1))
				mu.Lock()
				took[i] += time.Since(begin)
				mu.Unlock()
			})
		}
	}
	wait.Wait()
	out := make([]outcome, len(all))
	for i := range all {
		out[i] = summarise(results[i])
		out[i].took = took[i] / time.Duration(r.seeds)
	}
	return out
}

func (r race) replay(c contestant, seed uint64) *sim {
	random := rand.New(rand.NewPCG(seed, 1))
	s := &sim{
		replicas: r.fleet.replicas(),
		policy:   c.make(random, r.how), random: random,
		calls: cut(r.trace, seed, r.requests, r.rate, r.poisson),
	}
	s.run()
	return s
}

// summarise leaves the first tenth of each replay out, while the fleet fills.
func summarise(sims []*sim) outcome {
	var o outcome
	var ttft, tpot []time.Duration
	var e2e, length time.Duration
	var queried, hit int
	for _, s := range sims {
		counted := s.calls[len(s.calls)/10:]
		length += counted[len(counted)-1].at - counted[0].at
		for _, c := range counted {
			ttft, tpot, e2e = append(ttft, c.ttft()), append(tpot, c.tpot()), e2e+c.end-c.at
			if c.ttft() <= ttftLimit && c.tpot() <= tpotLimit {
				o.within++
			}
		}
		for _, r := range s.replicas {
			n := r.engine.Counts()
			o.preemptions += n.Preemptions
			queried, hit = queried+n.Queried, hit+n.Hit
		}
	}
	n := len(ttft)
	slices.Sort(ttft)
	slices.Sort(tpot)
	o.goodput = o.within / length.Seconds()
	o.within /= float64(n)
	o.e2e = e2e / time.Duration(n)
	o.ttft50, o.ttft99, o.tpot99 = ttft[n/2], ttft[n*99/100], tpot[n*99/100]
	o.preemptions /= len(sims)
	o.hit = float64(hit) / max(1, float64(queried))
	return o
}

func table(w io.Writer, all []contestant, out []outcome) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t,
		"policy\twithin\tgoodput/s\tE2E s\tTTFT p50 s\tp99 s\tTPOT p99 ms\tprefix hit\tpreemptions\ttook s\t")
	for i, o := range out {
		fmt.Fprintf(t, "%s\t%.1f%%\t%.2f\t%.1f\t%.2f\t%.1f\t%.0f\t%.0f%%\t%d\t%.1f\t\n", all[i].name,
			100*o.within, o.goodput,
			o.e2e.Seconds(), o.ttft50.Seconds(), o.ttft99.Seconds(), 1e3*o.tpot99.Seconds(), 100*o.hit, o.preemptions,
			o.took.Seconds())
	}
	t.Flush()
}
