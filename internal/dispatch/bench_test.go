package dispatch

import (
	"fmt"
	"testing"
	"time"
)

// One decision with many slots and as many waiting requests: the time must grow
// like a logarithm.
func BenchmarkDecision(b *testing.B) {
	for _, n := range []int{100, 1000, 10000, 100000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			q := New(Policy{Theta: 1e6, Priorities: 3, Placements: []Placement{{}, {Prefer: []string{"c1"}}}})
			for i := range n / 4 {
				q.Put(Replica{ID: fmt.Sprint(i), Class: fmt.Sprintf("c%d", i%4), Slots: 4, Weight: float64(1 + i%4)})
			}
			now := epoch
			add := func(i int) {
				q.Submit(&Ticket{Request: Request{
					Tenant: fmt.Sprint(i % 50), Priority: i % 3, Placement: i % 7 / 6,
					Deadline: now.Add(time.Duration(i*7919%100000) * time.Hour), Expire: now.Add(200000 * time.Hour),
				}}, now)
			}
			for i := range 2 * n {
				add(i)
			}
			running := make([]*Ticket, 0, n)
			for k := q.Next(now); k != nil; k = q.Next(now) {
				running = append(running, k)
			}
			i := 0
			for b.Loop() {
				// One request ends, one comes, and the free slot is given.
				i++
				now = now.Add(time.Millisecond)
				at := i * 7919 % len(running)
				q.Finish(running[at], Served, 0, now)
				add(i)
				if running[at] = q.Next(now); running[at] == nil {
					b.Fatal("a free slot stays free while requests wait")
				}
			}
			b.ReportMetric(float64(q.Waiting()), "waiting")
		})
	}
}
