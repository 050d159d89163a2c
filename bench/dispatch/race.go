package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"aliquot.example/internal/dispatch"
)

// entry is a running contestant.
type entry struct {
	contestant
	process  *process
	replicas []*replica
	latency  map[float64][]time.Duration // by load, all seeds
}

// virtual holds the latencies of the gateway's policy in virtual time on the same calls, by load:
// what the gateway would reach if forwarding took no time.
type virtual map[float64][]time.Duration

func (v virtual) play(f fleet, calls []call, load float64) {
	all := simulate(f, calls, dispatch.Policy{}, 0)
	v[load] = append(v[load], all[len(all)/20:]...)
}

// enter starts the contestants, each with its own replicas.
func enter(ctx context.Context, gateway string, f fleet) ([]*entry, func(), error) {
	dir, err := os.MkdirTemp("", "aliquot-bench-")
	if err != nil {
		return nil, nil, err
	}
	var entries []*entry
	end := func() {
		for _, e := range entries {
			e.process.end()
		}
		os.RemoveAll(dir)
	}
	for _, c := range contestants(gateway) {
		e := &entry{contestant: c, latency: map[float64][]time.Duration{}}
		if e.replicas, err = f.start(); err == nil {
			e.process, err = c.launch(ctx, dir, f, e.replicas)
		}
		if err != nil {
			end()
			return nil, nil, err
		}
		entries = append(entries, e)
	}
	return entries, end, nil
}

func (c contestant) launch(ctx context.Context, dir string, f fleet, replicas []*replica) (*process, error) {
	own, err := os.MkdirTemp(dir, "")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	listen, err := freeAddress()
	if err != nil {
		return nil, err
	}
	var addresses []string
	for _, r := range replicas {
		addresses = append(addresses, r.address)
	}
	command, err := c.config(own, listen, f, addresses)
	if err != nil {
		return nil, err
	}
	return launch(ctx, command, listen)
}

// race plays the same calls to all contestants at the same time, for every load and seed, and
// prints the latencies that the clients saw.
func race(ctx context.Context, o options) error {
	f := uneven()
	entries, end, err := enter(ctx, o.gateway, f)
	if err != nil {
		return err
	}
	defer end()
	// Warm up connections, code paths and the gateway's rates before the measurement.
	if err := heat(entries, poisson(1000, 0.5*f.capacity(), 1000), 0); err != nil {
		return err
	}
	ideal := virtual{}
	for _, load := range loads {
		for seed := range o.seeds {
			rate := load * f.capacity()
			calls := poisson(uint64(seed+1), rate, int(rate*o.length.Seconds()))
			fmt.Fprintf(os.Stderr, "load %.2f seed %d: %d calls\n", load, seed+1, len(calls))
			if err := heat(entries, calls, load); err != nil {
				return err
			}
			ideal.play(f, calls, load)
		}
	}
	report(entries, ideal, f, o.busy)
	return nil
}

// heat plays one sequence of calls to all contestants. With load 0, it records nothing.
func heat(entries []*entry, calls []call, load float64) error {
	begin := time.Now().Add(100 * time.Millisecond)
	errs := make([]error, len(entries))
	var wait sync.WaitGroup
	for i, e := range entries {
		wait.Go(func() {
			all, err := play(e.process.url, calls, begin)
			if errs[i] = err; err == nil && load > 0 {
				// The queue starts empty, so the first calls would flatter every contestant.
				e.latency[load] = append(e.latency[load], all[len(all)/20:]...)
			}
		})
	}
	wait.Wait()
	for i, err := range errs {
		if err != nil {
			return fmt.Errorf("%s: %w", entries[i].name, err)
		}
	}
	return nil
}

func report(entries []*entry, ideal virtual, f fleet, busy int) {
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Printf("p99 (mean) in ms, from the intended arrival; eight replicas, 25 ms x 4 and 100 ms x 4; %s; "+
		"%d busy loops; load averages %s\n| |", versions(), busy, load)
	for _, load := range loads {
		fmt.Printf(" %.2f |", load)
	}
	fmt.Printf(" req/s at p99 400 ms | most at once at a replica |\n|---|")
	for range len(loads) + 2 {
		fmt.Print("---|")
	}
	fmt.Println()
	peers := entries[gateways:]
	for _, e := range entries {
		fmt.Printf("| %s |", e.name)
		for _, load := range loads {
			s := summarise(e.latency[load])
			fmt.Printf(" %.0f (%.1f) |", ms(s.p99), ms(s.mean))
		}
		most := int64(0)
		for _, r := range e.replicas {
			most = max(most, r.most.Load())
		}
		fmt.Printf(" %s | %d |\n", e.largestRate(loads, f), most)
	}
	fmt.Printf("| the policy in virtual time |")
	for _, load := range loads {
		s := summarise(ideal[load])
		fmt.Printf(" %.0f (%.1f) |", ms(s.p99), ms(s.mean))
	}
	fmt.Printf(" | |\n| best of the peers |")
	for _, load := range loads {
		p99, mean := best(peers, load)
		fmt.Printf(" %.0f (%.1f) |", ms(p99), ms(mean))
	}
	for _, own := range entries[:gateways] {
		own.against("best", peers)
		own.against(peers[0].name, peers[:1])
	}
	fmt.Println(" | |")
	for _, own := range entries[:gateways] {
		fmt.Printf("\n%s:\n", own.name)
		for _, v := range judge(own, peers, f, busy) {
			fmt.Println(v)
		}
	}
}

// against prints the gateway's latencies at each load as multiples of the best of some peers.
func (e *entry) against(name string, peers []*entry) {
	fmt.Printf(" | |\n| %s / %s |", e.name, name)
	for _, load := range loads {
		p99, mean := best(peers, load)
		s := summarise(e.latency[load])
		fmt.Printf(" %.2f (%.2f) |", float64(s.p99)/float64(p99), float64(s.mean)/float64(mean))
	}
}
