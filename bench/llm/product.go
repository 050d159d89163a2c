package main

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"aliquot.example/internal/dispatch"
)

// gateway is the product's own dispatch and learning, called as the gateway calls it:
// it sees arrivals, tokens and ends, knows of the hardware what the table says, and
// asks each engine for its metrics once a second.
type gateway struct {
	policy  dispatch.Policy
	how     conditions
	random  *rand.Rand
	queue   *dispatch.Queue
	changed bool          // since Next was asked last
	now     time.Duration // of the last call
	scrape  time.Duration // the next one
}

// conditions are what may be wrong around the product.
type conditions struct {
	// gateways is how many there are, each with its own queue, index and learning,
	// and a random part of the requests.
	gateways int
	// whole is the part of the requests whose answers come in one piece.
	whole float64
	// lengths says that it knows how long each answer will be.
	lengths bool
	// priors multiply the weights of classes, which then are not in the table.
	priors map[string]float64
}

// epoch is the time of the start of a replay.
var epoch = time.Unix(1_700_000_000, 0)

const (
	// wholeSlices is how many slices a whole GPU has.
	wholeSlices = 20
	// scrapeInterval is the gateway's default for engines' metrics.
	scrapeInterval = time.Second
)

// slotsOf is how many requests at a time an operator sets for each class who knows its
// memory and has tried what works best.
var slotsOf = map[string]int{"h100": 32, "mi300x": 64, "half-h100": 12, "a100": 24, "l4": 6, "t4": 4}

// product makes the gateways of one replay.
func product(p dispatch.Policy) func(*rand.Rand, conditions) policy {
	return func(random *rand.Rand, how conditions) policy {
		all := make(several, max(1, how.gateways))
		for i := range all {
			all[i] = &gateway{policy: p, how: how, random: random}
		}
		return all
	}
}

func (g *gateway) start(s *sim) {
	g.queue = dispatch.New(g.policy)
	for i, r := range s.replicas {
		name, part := named(r.hardware.Class)
		weight := r.weight
		if factor, ok := g.how.priors[r.hardware.Class]; ok {
			name, weight = "unknown-"+r.hardware.Class, factor*weight
		}
		slots := r.engine.Config().MaxSeqs
		if g.policy.Mode == dispatch.Slots {
			slots = slotsOf[r.hardware.Class]
		}
		g.queue.Put(dispatch.Replica{
			ID: strconv.Itoa(i), Class: name, Slices: int(part * wholeSlices),
			Slots: slots, Weight: weight / float64(slots),
			KV: r.hardware.KVTokens, MaxPrompt: r.hardware.KVTokens,
		})
	}
}

func (g *gateway) arrive(s *sim, r *request) {
	now := epoch.Add(s.now)
	output := 0
	if g.how.lengths {
		output = r.output
	}
	r.ticket = &dispatch.Ticket{Value: r, Request: dispatch.Request{
		Expire: now.Add(24 * time.Hour), Prompt: r.prompt, Output: output, Blocks: r.prefix,
		Whole: g.random.Float64() < g.how.whole,
	}}
	if why, _ := g.queue.Submit(r.ticket, now); why != dispatch.Accepted {
		panic(fmt.Sprint("refused: ", why))
	}
	g.changed = true
}

func (g *gateway) token(s *sim, r *request) {
	now := epoch.Add(s.now)
	made := r.sequence.Made()
	last := made == r.output
	if !r.ticket.Whole {
		g.queue.Progress(r.ticket, made, now)
		g.changed = g.changed || made == 1
	}
	if last {
		g.queue.Settle(r.ticket, r.prompt, r.sequence.Hit(), r.output)
		g.queue.Finish(r.ticket, dispatch.Served, 0, now)
		g.changed = true
	}
}

func (g *gateway) settled(s *sim) {
	g.now = s.now
	if g.queue == nil {
		g.start(s)
	}
	if g.policy.Mode == dispatch.Tokens && s.now >= g.scrape {
		g.observe(s)
	}
	if !g.changed && s.now < g.due() {
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

func (g *gateway) observe(s *sim) {
	g.scrape = s.now + scrapeInterval
	for i, r := range s.replicas {
		g.queue.Observe(strconv.Itoa(i), dispatch.EngineState{
			Running: r.engine.Running(), Waiting: r.engine.Waiting(), KVUsed: r.engine.KVUsage(),
		}, epoch.Add(s.now))
	}
}

// due is when the queue wants to be asked again.
func (g *gateway) due() time.Duration {
	if wake := g.queue.LookAgain(); !wake.IsZero() {
		return wake.Sub(epoch)
	}
	return never
}

func (g *gateway) wake() time.Duration {
	if g.queue == nil {
		return 0
	}
	return max(g.due(), g.now+1)
}

// several gateways know nothing of each other but what the engines say.
type several []*gateway

func (all several) arrive(s *sim, r *request) {
	r.gateway = all[s.random.IntN(len(all))]
	r.gateway.arrive(s, r)
}

func (all several) token(s *sim, r *request) { r.gateway.token(s, r) }

func (all several) settled(s *sim) {
	for _, g := range all {
		g.settled(s)
	}
}

func (all several) wake() time.Duration {
	at := never
	for _, g := range all {
		at = min(at, g.wake())
	}
	return at
}
