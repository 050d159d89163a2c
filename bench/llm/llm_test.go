package main

import (
	"errors"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"testing"
	"time"
)

// short is a load that needs no recording: some conversations that grow.
func short(n int) []traced {
	r := rand.New(rand.NewPCG(1, 2))
	out := make([]traced, n)
	for i := range out {
		pages := r.IntN(12)
		out[i] = traced{at: time.Duration(i) * 200 * time.Millisecond, prompt: pages*page + 1 + r.IntN(page-1), output: 1 + r.IntN(200)}
		for p := range pages {
			out[i].prefix = append(out[i].prefix, uint64(r.IntN(3))<<32|uint64(p))
		}
	}
	return out
}

func TestEveryContestantServesEveryRequestOnce(t *testing.T) {
	f, err := fleetOf("mixed")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range contestants {
		s := race{fleet: f, trace: short(400), rate: 20, requests: 400}.replay(c, 1)
		for _, q := range s.calls {
			if q.sequence.Made() != q.output || q.sent < q.at || q.first <= q.sent || q.end < q.first {
				t.Fatalf("%s: request %d came at %s, was sent at %s, began at %s and ended at %s with %d of %d tokens",
					c.name, q.id, q.at, q.sent, q.first, q.end, q.sequence.Made(), q.output)
			}
		}
		for i, r := range s.replicas {
			if r.engine.Running()+r.engine.Waiting() != 0 || r.engine.KVUsage() != 0 {
				t.Errorf("%s: replica %d is not empty at the end", c.name, i)
			}
		}
	}
}

func TestAReplayIsTheSameEachTime(t *testing.T) {
	f, _ := fleetOf("mixed")
	r := race{fleet: f, trace: short(300), rate: 25, requests: 300, seeds: 2}
	for _, c := range contestants {
		one, two := r.replay(c, 2), r.replay(c, 2)
		for i := range one.calls {
			if one.calls[i].end != two.calls[i].end {
				t.Fatalf("%s: request %d ends at %s and at %s", c.name, i, one.calls[i].end, two.calls[i].end)
			}
		}
	}
}

func TestCutKeepsTheRateAndTheOrder(t *testing.T) {
	all := short(100)
	for _, poisson := range []bool{false, true} {
		calls := cut(all, 3, 80, 4, poisson)
		for i := range calls[1:] {
			if calls[i+1].at < calls[i].at {
				t.Fatalf("request %d comes before the one ahead of it", i+1)
			}
		}
		if last := calls[79].at.Seconds(); last < 12 || last > 30 {
			t.Errorf("80 requests at 4 per second last %.1f s", last)
		}
	}
}

func TestTracesOfTheData(t *testing.T) {
	// Without the folder there are no recordings. Of one that is missing in it the test fails.
	const folder = "../../../shared/data/traces"
	if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
		t.Skip("there is no folder of recorded traces: " + folder)
	}
	for name := range traceNames {
		all, err := readTrace(folder, name)
		if err != nil || len(all) < 8000 {
			t.Fatalf("%s: %d requests, %v", name, len(all), err)
		}
		for i, r := range all {
			if r.prompt < 1 || r.output < 1 || len(r.prefix)*page > r.prompt || i > 0 && r.at < all[i-1].at {
				t.Fatalf("%s: request %d: %+v", name, i, r)
			}
		}
	}
}

// Whatever is assumed of the classes, every replica of a busy fleet gets its work.
func TestNoReplicaIsLeftOut(t *testing.T) {
	for _, name := range []string{"mixed", "slices", "one"} {
		f, err := fleetOf(name)
		if err != nil {
			t.Fatal(err)
		}
		all := short(1500)
		rate := 0.9 * capacity(f, all)
		for _, priors := range []map[string]float64{nil, {"l4": 1.0 / 3}, {"l4": 3}, {"h100": 1.0 / 3}, {"h100": 3, "l4": 1.0 / 3}} {
			r := race{fleet: f, trace: all, rate: rate, requests: 1500, how: conditions{priors: priors}}
			s := r.replay(contestant{name: judge, make: product(objective)}, 1)
			sent := make([]int, f.size())
			for _, c := range s.calls {
				sent[c.replica]++
			}
			for i, n := range sent {
				if n < 1500/f.size()/10 {
					t.Errorf("%s with %v: replica %d, a %s, is sent %d of 1,500: %v", name, priors, i, s.replicas[i].hardware.Class, n, sent)
				}
			}
		}
	}
}

// With one kind of call and one class, the bound is the tighter of the two limits.
func TestAttainableOfOneClass(t *testing.T) {
	f := fleet{parts: []part{{"a100", 3}}}
	h := f.replicas()[0].hardware
	u := use(h, 1000, 200)
	limit := tpotLimit.Seconds()
	want := 3 * min((1-h.Truth().Step/limit)/u[0], (1-h.Overhead/limit)/u[1])
	calls := []*request{{traced: traced{prompt: 1000, output: 200}}}
	if got := attainable(f, calls); math.Abs(got/want-1) > 0.01 {
		t.Errorf("attainable is %g, want %g", got, want)
	}
}

// What is attainable is more than any fleet serves within the objective, but not by much.
func TestAFleetServesNearlyWhatIsAttainable(t *testing.T) {
	f, err := fleetOf("four")
	if err != nil {
		t.Fatal(err)
	}
	all := short(1500)
	for i := range all {
		all[i].prefix = nil
	}
	most := attainable(f, cut(all, 1, len(all), 1, false))
	for _, load := range []float64{0.7, 1.1} {
		r := race{fleet: f, trace: all, rate: load * most, requests: len(all), poisson: true}
		within := summarise([]*sim{r.replay(contestant{name: judge, make: product(objective)}, 1)}).within
		if within > 0.97 != (load < 1) {
			t.Errorf("at %g of what is attainable %.1f%% are within the objective", load, 100*within)
		}
	}
}
