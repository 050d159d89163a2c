package main

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"aliquot/internal/dispatch"
)

// gateway is the product's own dispatch and learning, called as the gateway calls it:
// it sees arrivals, tokens and ends, and knows of the hardware what the table says.
type gateway struct {
	policy  dispatch.Policy
	queue   *dispatch.Queue
	changed bool // since Next was asked last
	now     time.Duration
}

// epoch is the time of the start of a replay.
var epoch = time.Unix(1_700_000_000, 0)

// wholeSlices is how many slices a whole GPU has.
const wholeSlices = 20

// slotsOf is how many requests at a time a person sets for each class who knows its
// memory and tries what works best.
var slotsOf = map[string]int{"h100": 32, "mi300x": 64, "half-h100": 12, "a100": 24, "l4": 6, "t4": 4}

func product(p dispatch.Policy) func(*rand.Rand) policy {
	return func(*rand.Rand) policy { return &gateway{policy: p} }
}

func (g *gateway) start(s *sim) {
	g.queue = dispatch.New(g.policy)
	for i, r := range s.replicas {
		name, part := named(r.hardware.Class)
		slots := r.engine.Config().MaxSeqs
		if g.policy.Mode == dispatch.Slots {
			slots = slotsOf[r.hardware.Class]
		}
		g.queue.Put(dispatch.Replica{
			ID: strconv.Itoa(i), Class: name, Slices: int(part * wholeSlices),
			Slots: slots, Weight: r.weight / float64(slots),
			KV: r.hardware.KVTokens, MaxPrompt: r.hardware.KVTokens,
		})
	}
}

func (g *gateway) arrive(s *sim, r *request) {
	if g.queue == nil {
		g.start(s)
	}
	now := epoch.Add(s.now)
	r.ticket = &dispatch.Ticket{Value: r, Request: dispatch.Request{
		Expire: now.Add(24 * time.Hour), Prompt: r.prompt, Blocks: r.prefix,
	}}
	if why, _ := g.queue.Submit(r.ticket, now); why != dispatch.Accepted {
		panic(fmt.Sprint("refused: ", why))
	}
	g.changed = true
}

func (g *gateway) token(s *sim, r *request) {
	now := epoch.Add(s.now)
	made := r.sequence.Made()
	g.queue.Progress(r.ticket, made, now)
	if made == r.output {
		g.queue.Settle(r.ticket, r.prompt, r.sequence.Hit(), r.output)
		g.queue.Finish(r.ticket, dispatch.Served, 0, now)
	}
	g.changed = g.changed || made == 1 || made == r.output
}

func (g *gateway) settled(s *sim) {
	g.now = s.now
	if g.queue == nil || !g.changed && s.now < g.due() {
		return
	}
	g.changed = false
	for {
		t := g.queue.Next(epoch.Add(s.now))
		if t == nil {
			return
		}
		on, _ := t.Replica()
		to, _ := strconv.Atoi(on.ID)
		s.send(t.Value.(*request), to)
	}
}

// due is when the queue wants to be asked again.
func (g *gateway) due() time.Duration {
	if wake := g.queue.Wake(); !wake.IsZero() {
		return wake.Sub(epoch)
	}
	return never
}

func (g *gateway) wake() time.Duration {
	if g.queue == nil {
		return never
	}
	return max(g.due(), g.now+1)
}
