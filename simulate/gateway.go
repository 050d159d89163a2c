package simulate

import (
	"fmt"
	"strconv"
	"time"

	"aliquot.example/internal/dispatch"
	"aliquot.example/internal/learned"
)

// gateway is the dispatch of Aliquot's gateway. It begins with the curves of the classes, as after some
// minutes of traffic, as far as it believes them (see dispatch.Queue.Seed), and learns from there. It
// learns how long responses are, and knows no prefixes.
type gateway struct {
	queue    *dispatch.Queue
	tickets  []*dispatch.Ticket // by request, nil before its arrival and after its end
	replicas map[string]*replica
	longest  int // the longest prompt that fits into a cache, in tokens, 0 if any does
}

// epoch is the wall-clock time of the start of a replay. Any time will do.
var epoch = time.Unix(1_700_000_000, 0)

func newGateway(cfg Config, trace []Request) *gateway {
	g := &gateway{
		tickets: make([]*dispatch.Ticket, len(trace)), replicas: map[string]*replica{},
		queue: dispatch.New(dispatch.Policy{
			Mode: dispatch.Tokens, SLO: dispatch.SLO{TTFT: cfg.Objective.TTFT, TPOT: cfg.Objective.TPOT},
		}),
	}
	rates := map[string]dispatch.Rate{}
	unlimited := false
	for i, class := range cfg.Classes {
		c := class.Curve
		rates[className(i)] = dispatch.Rate{Rate: 1, Slots: 1, Samples: 1, Curves: []dispatch.Curve{{
			Slices: 1, Total: 1, Start: c.Start, Prefill: c.Prefill, Growth: c.Growth, A: c.A, B: c.B, C: c.C,
		}}}
		g.longest, unlimited = max(g.longest, cacheTokens(c)), unlimited || c.KV == 0
	}
	if unlimited {
		g.longest = 0
	}
	g.queue.Seed(rates)
	return g
}

// className returns the name of a class for the queue. It is none of the hardware table's, whose
// figures would limit what the queue believes of a curve.
func className(class int) string { return "class " + strconv.Itoa(class) }

// cacheTokens returns the size of a replica's cache, 0 if it is unknown.
func cacheTokens(c *learned.Curve) int { return int(min(c.KV, 1e15)) }

func (g *gateway) put(r *replica) {
	id := strconv.Itoa(r.id)
	g.replicas[id] = r
	slots := r.batch.slots()
	g.queue.Put(dispatch.Replica{
		ID: id, Class: className(r.class), Slices: 1, Total: 1, Weight: 1 / float64(slots),
		Slots: slots, KV: cacheTokens(&r.batch.curve),
	})
}

func (g *gateway) drop(r *replica) {
	id := strconv.Itoa(r.id)
	delete(g.replicas, id)
	g.queue.Drop(id)
}

// arrive queues a request. One that is longer than every cache waits for an idle replica.
func (g *gateway) arrive(i int, q Request, now time.Duration) {
	prompt := max(1, q.InputTokens)
	if g.longest > 0 {
		prompt = min(prompt, g.longest)
	}
	g.tickets[i] = &dispatch.Ticket{Value: i, Request: dispatch.Request{
		Expire: epoch.Add(now + never), Prompt: prompt,
	}}
	if why, _ := g.queue.Submit(g.tickets[i], epoch.Add(now)); why != dispatch.Accepted {
		panic(fmt.Sprintf("a request of a replay is refused: %d", why)) // the policy has no limits
	}
}

func (g *gateway) next(now time.Duration) (i int, to *replica) {
	t := g.queue.Next(epoch.Add(now))
	if t == nil {
		return 0, nil
	}
	on, _ := t.Replica()
	return t.Value.(int), g.replicas[on.ID]
}

func (g *gateway) again() time.Duration {
	if at := g.queue.LookAgain(); !at.IsZero() && len(g.replicas) > 0 {
		return at.Sub(epoch)
	}
	return 0
}

func (g *gateway) progress(b *batch, now time.Duration) {
	for _, c := range b.decoding {
		g.queue.Progress(g.tickets[c.index], int(c.output-(c.end-b.steps)+1e-6), epoch.Add(now))
	}
}

func (g *gateway) ended(c *call, now time.Duration) {
	t := g.tickets[c.index]
	g.queue.Progress(t, int(c.output), epoch.Add(now))
	g.queue.Settle(t, int(c.prompt), 0, int(c.output))
	g.queue.Finish(t, dispatch.Served, 0, epoch.Add(now))
	g.tickets[c.index] = nil
}
