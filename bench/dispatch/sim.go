package main

import (
	"container/heap"
	"fmt"
	"strconv"
	"time"

	"aliquot.example/internal/dispatch"
)

// end is the end of a simulated request.
type end struct {
	at     time.Duration
	ticket *dispatch.Ticket
}

type ends []end

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, j int) bool { return e[i].at < e[j].at }
func (e ends) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *ends) Push(x any)        { *e = append(*e, x.(end)) }
func (e *ends) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// simulate runs the gateway's policy on the calls in virtual time and returns the latency of each.
func simulate(f fleet, calls []call, policy dispatch.Policy, handOver time.Duration) []time.Duration {
	start := time.Unix(1_700_000_000, 0)
	q := dispatch.New(policy)
	for i, mean := range f {
		q.Put(dispatch.Replica{ID: strconv.Itoa(i), Class: mean.String(), Slots: 1,
			Weight: f[len(f)-1].Seconds() / mean.Seconds()})
	}
	latency := make([]time.Duration, len(calls))
	running := &ends{}
	free := make([]time.Duration, len(f)) // when each replica has served all that it was sent
	pump := func(now time.Duration) {
		for {
			t := q.Next(start.Add(now))
			if t == nil {
				return
			}
			r, _ := t.Replica()
			server, _ := strconv.Atoi(r.ID)
			work := calls[t.Value.(int)].work
			free[server] = max(free[server], now+handOver/2) + time.Duration(work*float64(f[server]))
			heap.Push(running, end{free[server] + handOver/2, t})
		}
	}
	next := 0
	for next < len(calls) || running.Len() > 0 {
		now := time.Duration(1<<63 - 1)
		if next < len(calls) {
			now = calls[next].at
		}
		if wake := q.LookAgain(); !wake.IsZero() {
			now = min(now, wake.Sub(start))
		}
		if running.Len() > 0 && (*running)[0].at <= now {
			e := heap.Pop(running).(end)
			i := e.ticket.Value.(int)
			latency[i] = e.at - calls[i].at
			q.Finish(e.ticket, dispatch.Served, 0, start.Add(e.at))
			pump(e.at)
			continue
		}
		if next < len(calls) && calls[next].at <= now {
			t := &dispatch.Ticket{Value: next, Request: dispatch.Request{Expire: start.Add(now + time.Hour)}}
			q.Submit(t, start.Add(now))
			next++
		}
		pump(now)
	}
	return latency
}

// simTable prints p99 and mean of several thresholds at every load, and what a hand-over costs.
func simTable(loads []float64, seeds, n int) {
	f := uneven()
	fmt.Printf("| policy |")
	for _, load := range loads {
		fmt.Printf(" %.2f |", load)
	}
	fmt.Println()
	row := func(name string, policy dispatch.Policy, handOver time.Duration) {
		fmt.Printf("| %s |", name)
		for _, load := range loads {
			var all []time.Duration
			for seed := range seeds {
				calls := poisson(uint64(seed+1), load*f.capacity(), n)
				all = append(all, simulate(f, calls, policy, handOver)[n/20:]...)
			}
			s := summarise(all)
			fmt.Printf(" %.0f (%.0f) |", ms(s.p99), ms(s.mean))
		}
		fmt.Println()
	}
	row("theta adaptive", dispatch.Policy{}, 0)
	for _, theta := range []float64{1.5, 2, 3, 1e6} {
		row(fmt.Sprintf("theta %g", theta), dispatch.Policy{Theta: theta}, 0)
	}
	row("one sent ahead", dispatch.Policy{SendAhead: 1}, 0)
	for _, handOver := range []time.Duration{300 * time.Microsecond, 3 * time.Millisecond} {
		row(fmt.Sprintf("%s for each hand-over", handOver), dispatch.Policy{}, handOver)
		row("the same, one sent ahead", dispatch.Policy{SendAhead: 1}, handOver)
	}
}
