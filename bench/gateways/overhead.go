package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"sync"
	"text/tabwriter"
	"time"

	"aliquot.example/e2e/gateways"
)

// calls is how many requests each gateway gets per round of the added-time measurement.
const calls = 400

// idle returns a replica with 1000 slots that answers at once.
func idle() (*gateways.Replica, error) {
	r, err := gateways.NewReplica("127.0.0.1", "fast", 1000, 1)
	if err == nil {
		r.Serve = func(*http.Request) {}
	}
	return r, err
}

// measurement measures gateways, one of which owns the service, and prints the result.
type measurement func(ctx context.Context, f *gateways.Fleet, owner *gateways.Gateway) error

// settled starts three gateways in front of one replica that answers at once, waits until one of
// them owns the service for good, and calls do.
func (o options) settled(ctx context.Context, do measurement) error {
	r, err := idle()
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := o.open(ctx, 3, []*gateways.Replica{r})
	if err != nil {
		return err
	}
	defer f.End()
	owner, err := o.lasting(ctx, f)
	if err != nil {
		return err
	}
	return do(ctx, f, owner)
}

// lasting waits until the service belongs to the gateway that is first in the hash, which takes 10
// s after the start, and returns that gateway.
func (o options) lasting(ctx context.Context, f *gateways.Fleet) (*gateways.Gateway, error) {
	select {
	case <-time.After(12 * time.Second):
	case <-ctx.Done():
	}
	return f.Settled(ctx)
}

// added prints the latency on one connection of requests that enter at the owner, and at another
// gateway.
func (o options) added(ctx context.Context, f *gateways.Fleet, owner *gateways.Gateway) error {
	var at, beside []time.Duration
	for round := range o.rounds + 1 {
		for _, g := range f.Gateways {
			times, err := oneByOne(ctx, g)
			if err != nil {
				return err
			}
			if g == owner {
				at = append(at, times...)
			} else {
				beside = append(beside, times...)
			}
		}
		if round == 0 { // warm-up
			at, beside = nil, nil
		}
	}
	fmt.Println("\nOne request at a time, answered at once")
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "IT ENTERS AT\tP50\tP99")
	fmt.Fprintf(w, "the owner\t%s\t%s\n", us(quantile(at, 0.5)), us(quantile(at, 0.99)))
	fmt.Fprintf(w, "another gateway\t%s\t%s\n", us(quantile(beside, 0.5)), us(quantile(beside, 0.99)))
	fmt.Fprintf(w, "added\t%s\t\n", us(quantile(beside, 0.5)-quantile(at, 0.5)))
	return w.Flush()
}

func us(d time.Duration) string { return fmt.Sprintf("%d us", d.Microseconds()) }

func oneByOne(ctx context.Context, g *gateways.Gateway) (times []time.Duration, err error) {
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for range calls {
		start := time.Now()
		if err := g.Ask(ctx, client, "", 0, nil); err != nil {
			return nil, err
		}
		times = append(times, time.Since(start))
	}
	return times, nil
}

// decisions prints the owner's CPU time per decision. All requests enter at the other gateways, so
// the owner forwards none of them.
func decisions(ctx context.Context, f *gateways.Fleet, owner *gateways.Gateway) error {
	var others []*gateways.Gateway
	for _, g := range f.Gateways {
		if g != owner {
			others = append(others, g)
		}
	}
	fmt.Println("\nDecisions of an owner that carries no request itself")
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CLIENTS\tDECISIONS/S\tOWNER'S CPU EACH\tPER SECOND AND CORE")
	for _, clients := range []int{1, 16, 64, 256} {
		used, start := owner.CPU(), time.Now()
		n, err := together(ctx, others, clients, 5*time.Second)
		if err != nil {
			return err
		}
		took, spent := time.Since(start), owner.CPU()-used
		each := spent / time.Duration(max(n, 1))
		fmt.Fprintf(w, "%d\t%.0f\t%.1f us\t%.0f\n", clients, float64(n)/took.Seconds(),
			float64(each.Nanoseconds())/1000, float64(n)/max(spent.Seconds(), 0.001))
	}
	return w.Flush()
}

// together runs clients that each send one request after another for a while.
func together(ctx context.Context, at []*gateways.Gateway, clients int, length time.Duration) (requests int,
	err error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	defer client.CloseIdleConnections()
	var (
		wait sync.WaitGroup
		mu   sync.Mutex
	)
	until := time.Now().Add(length)
	for i := range clients {
		wait.Go(func() {
			n := 0
			var failed error
			for ; time.Now().Before(until) && failed == nil; n++ {
				failed = at[i%len(at)].Ask(ctx, client, "", 0, nil)
			}
			mu.Lock()
			defer mu.Unlock()
			requests += n
			if err == nil {
				err = failed
			}
		})
	}
	wait.Wait()
	return requests, err
}
