package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"text/tabwriter"
	"time"

	"aliquot.example/e2e/gateways"
)

const (
	fast, slow = 4, 4 // replicas
	slots      = 1    // of each
	// unit is the mean service time of a fast replica; a slow one takes slower times as long.
	unit   = 30 * time.Millisecond
	slower = 3
	// warm is how long a sequence runs before its latencies count.
	warm = 5 * time.Second
)

// capacity returns the capacity in requests per second.
func capacity() float64 { return (fast + slow/float64(slower)) * slots / unit.Seconds() }

// replicas starts the replicas. A request states how long a fast one takes for it.
func replicas() (all []*gateways.Replica, end func(), err error) {
	end = func() {
		for _, r := range all {
			r.Close()
		}
	}
	for i := range fast + slow {
		class, factor := "fast", time.Duration(1)
		if i >= fast {
			class, factor = "slow", slower
		}
		r, err := gateways.NewReplica("127.0.0.1", class, slots, 1/float64(factor))
		if err != nil {
			end()
			return nil, nil, err
		}
		r.Serve = func(req *http.Request) {
			serve, _ := time.ParseDuration(req.Header.Get(gateways.ServeHeader))
			select {
			case <-time.After(serve * factor):
			case <-req.Context().Done():
			}
		}
		all = append(all, r)
	}
	return all, end, nil
}

// call is one request of a sequence.
type call struct {
	at, serve time.Duration
	gateway   int // random number that selects the gateway
}

// sequence returns Poisson arrivals with exponential service times, the same for every arm.
func sequence(load float64, length time.Duration, seed uint64) (calls []call) {
	rng := rand.New(rand.NewPCG(seed, 14))
	gap := 1 / (load * capacity())
	for at := time.Duration(0); at < length+warm; {
		at += time.Duration(rng.ExpFloat64() * gap * float64(time.Second))
		calls = append(calls, call{at, time.Duration(rng.ExpFloat64() * float64(unit)), rng.IntN(1 << 20)})
	}
	return calls
}

// race prints mean and p99 of one gateway and of three, which take turns with each sequence.
func (o options) race(ctx context.Context) error {
	all, end, err := replicas()
	if err != nil {
		return err
	}
	defer end()
	took := map[string][]time.Duration{}
	for _, load := range loads {
		for seed := range o.seeds {
			calls := sequence(load, o.length, uint64(seed+1))
			for _, n := range []int{1, 3} {
				f, err := o.open(ctx, n, all)
				if err != nil {
					return err
				}
				times, err := play(ctx, f, calls)
				f.End()
				if err != nil {
					return err
				}
				took[key(load, n)] = append(took[key(load, n)], times...)
			}
		}
		// So that a run that is interrupted has printed its results.
		one, three := took[key(load, 1)], took[key(load, 3)]
		fmt.Fprintf(os.Stderr, "load %.2f: p99 of one %s, of three %s\n", load, ms(quantile(one, 0.99)),
			ms(quantile(three, 0.99)))
	}
	fmt.Printf("%d fast and %d slow replicas of %d slot, 1 : 1/%d, %s a request at a fast one; "+
		"%d sequences of %s each\n\n", fast, slow, slots, slower, unit, o.seeds, o.length)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "LOAD\tREQUESTS\tONE: MEAN\tP99\tTHREE: MEAN\tP99\tRATIO: MEAN\tP99")
	for _, load := range loads {
		one, three := took[key(load, 1)], took[key(load, 3)]
		m1, m3, q1, q3 := mean(one), mean(three), quantile(one, 0.99), quantile(three, 0.99)
		fmt.Fprintf(w, "%.2f\t%d\t%s\t%s\t%s\t%s\t%.2f\t%.2f\n", load, len(one), ms(m1), ms(q1), ms(m3), ms(q3),
			float64(m3)/float64(m1), float64(q3)/float64(q1))
	}
	return w.Flush()
}

func key(load float64, n int) string {
	return strconv.FormatFloat(load, 'f', 2, 64) + "/" + strconv.Itoa(n)
}

// play sends each call when it is due, and returns the latencies after the warm-up.
func play(ctx context.Context, f *gateways.Fleet, calls []call) ([]time.Duration, error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
	defer client.CloseIdleConnections()
	var (
		wait  sync.WaitGroup
		mu    sync.Mutex
		times []time.Duration
		first error
	)
	start := time.Now()
	for _, c := range calls {
		select {
		case <-time.After(time.Until(start.Add(c.at))):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		wait.Go(func() {
			g := f.Gateways[c.gateway%len(f.Gateways)]
			err := g.Ask(ctx, client, "", c.serve, nil)
			took := time.Since(start.Add(c.at)) // includes any delay of the client
			mu.Lock()
			defer mu.Unlock()
			if err != nil && first == nil {
				first = err
			}
			if c.at >= warm {
				times = append(times, took)
			}
		})
	}
	wait.Wait()
	return times, first
}

func mean(of []time.Duration) time.Duration {
	var sum time.Duration
	for _, d := range of {
		sum += d
	}
	return sum / time.Duration(max(len(of), 1))
}

func quantile(of []time.Duration, q float64) time.Duration {
	if len(of) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(of))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", d.Seconds()*1000) }
