package dispatch

import (
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A walk that stops to look at a replica where it costs more than another one finds the
// same replica as one that looks at all of each.
func TestPruningChangesNoDecision(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := New(Policy{Mode: Tokens, SLO: rapid.SampledFrom([]SLO{{}, strict, {TTFT: time.Second}, {TPOT: 50 * time.Millisecond}}).Draw(t, "objective")})
		now := epoch
		for i := range rapid.IntRange(1, 12).Draw(t, "replicas") {
			q.Put(Replica{
				ID: fmt.Sprint(i), Class: rapid.SampledFrom([]string{"h100", "a100-80gb", "l4"}).Draw(t, "class"), Weight: 1,
				KV: rapid.SampledFrom([]int{0, 3000, 90_000}).Draw(t, "kv"),
			})
		}
		var running []*Ticket
		for i := range rapid.IntRange(0, 80).Draw(t, "requests") {
			blocks := []uint64{1}
			for j := range rapid.IntRange(0, 6).Draw(t, "blocks") {
				blocks = append(blocks, uint64(rapid.IntRange(0, 2).Draw(t, "conversation"))<<32|uint64(j))
			}
			k := &Ticket{Request: Request{
				Prompt: len(blocks)*BlockTokens + rapid.IntRange(0, 500).Draw(t, "rest"), Output: rapid.IntRange(0, 400).Draw(t, "output"),
				Blocks: blocks, Expire: now.Add(time.Hour),
			}}
			q.Submit(k, now)
			for k := q.Next(now); k != nil; k = q.Next(now) {
				running = append(running, k)
			}
			now = now.Add(time.Duration(rapid.IntRange(0, 200).Draw(t, "ms")) * time.Millisecond)
			for range min(len(running), 3) {
				one := running[(i*7919)%len(running)]
				if q.Progress(one, one.entry.tokens+rapid.IntRange(1, 30).Draw(t, "tokens"), now); one.entry.tokens > 150 && one.on != nil {
					q.Finish(one, Served, 0, now)
				}
			}
		}
		q.walk.survey(q.waitlist.waiting, now)
		for range 5 {
			k := &Ticket{Request: Request{Prompt: rapid.IntRange(1, 6000).Draw(t, "prompt"), Blocks: []uint64{1, uint64(rapid.IntRange(0, 2).Draw(t, "of")) << 32}}}
			q.prepare(k, now)
			q.fleet.index.match(k.Blocks)
			z := q.averages.needOf(k)
			got, work := q.walk.leastCost(k, z, q.walk.delayWeight())
			want, least, reads := (*view)(nil), math.Inf(1), 0.0
			for i := range q.walk.views {
				v := &q.walk.views[i]
				if size := min(k.Prompt, q.walk.longest(q.waitlist.placements[0])); !q.walk.eligible(v, k, size) {
					continue
				}
				if cost, r := q.walk.cost(v, z, q.walk.delayWeight(), math.Inf(1)); cost < least {
					want, least, reads = v, cost, r
				}
			}
			if got != want || work != reads {
				t.Fatalf("a walk finds %+v, %v; looking at all of each %+v, %v", got, work, want, reads)
			}
			if got != nil { // as if the request were promised to it
				got.promised += work
			}
		}
	})
}
