package dispatch

import (
	"fmt"
	"testing"
	"time"
)

// One decision of an engine that batches, with as many requests waiting as there
// are replicas, prompts of 16 blocks of which the first is everybody's, and every
// replica's index full. One replica that is free suits no request, so that every walk
// goes to its end.
func BenchmarkTokensDecision(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchmarkTokensDecision(b, n, SLO{}) })
		b.Run(fmt.Sprint("objective/", n), func(b *testing.B) { benchmarkTokensDecision(b, n, strict) })
	}
}

func benchmarkTokensDecision(b *testing.B, n int, objective SLO) {
	q := New(Policy{Mode: Tokens, Priorities: 2, SLO: objective})
	classes := []string{"h100", "a100-80gb", "l4", "mi300x"}
	for i := range n {
		q.Put(Replica{ID: fmt.Sprint(i), Class: classes[i%4], Weight: 1, KV: 400_000})
	}
	q.Put(Replica{ID: "short", Class: "t4", Weight: 0.06, MaxPrompt: 100})
	now := epoch
	add := func(i int) {
		blocks := []uint64{1}
		for j := range 15 {
			blocks = append(blocks, uint64(i%(4*n))*100+uint64(j)+2)
		}
		q.Submit(&Ticket{Request: Request{
			Tenant: fmt.Sprint(i % 50), Priority: i % 2, Prompt: 16 * BlockTokens, Blocks: blocks, Expire: now.Add(time.Hour),
		}}, now)
	}
	i := 0
	var running []*Ticket
	start := func() {
		for k := q.Next(now); k != nil; k = q.Next(now) {
			running = append(running, k)
		}
	}
	for q.Waiting() < n { // every replica gets as much as it takes
		add(i)
		i++
		if i%n == 0 {
			start()
		}
	}
	start()
	for q.Waiting() < n {
		add(i)
		i++
	}
	for b.Loop() {
		// A first token, an end, an arrival, and what follows from them.
		now = now.Add(time.Millisecond)
		k := running[i*7919%len(running)]
		q.Progress(k, k.entry.tokens+1, now)
		if i%8 == 0 && k.on != nil {
			q.Finish(k, Served, 0, now)
		}
		add(i)
		i++
		if k := q.Next(now); k != nil {
			running = append(running, k)
		}
	}
	b.ReportMetric(float64(q.Waiting()), "waiting")
}
