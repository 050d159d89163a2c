package gateway

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"aliquot.example/gateway/config"
	"aliquot.example/gateway/engine"
	"aliquot.example/gateway/line"
)

// nights knows which replicas of a service sleep, puts to sleep those that are more
// than enough, and wakes one when requests wait for it. A replica is known to be awake
// before it gets its first request.
type nights struct {
	line    queue
	config  *config.Sleep
	bed     *engine.Bed
	next    func([]line.Replica) // takes the replicas with what is known of their sleep
	count   func(action, result string)
	log     *slog.Logger
	looking chan struct{}

	mu       sync.Mutex
	replicas []line.Replica
	naps     map[string]*nap   // by replica
	enough   map[string]enough // by class, "" for all together
	takes    time.Duration     // mean time that waking took of late
}

// enough is how many replicas of a class may stay awake.
type enough struct {
	replicas int
	until    time.Time
}

const (
	// firstTakes is how long waking is taken to take before it was seen: 3 to 6 s have
	// been told of large models at level 1.
	firstTakes = 5 * time.Second
	// stays is for how long a replica that was woken is not put to sleep.
	stays = time.Minute
	// settles is for how long a replica must have had nothing to do, as an engine ends
	// the work of a client that left a moment later.
	settles = time.Second
	// looks is how often it is looked whether a replica should sleep, or wake.
	looks = time.Second
	// asks is how often replicas are asked whether they sleep: somebody else may order
	// it, or an engine start again.
	asks = 5 * time.Second
	// firstAway and longestAway are for how long a replica that could not be woken is
	// left alone.
	firstAway   = 5 * time.Second
	longestAway = 5 * time.Minute
)

func newNights(v *service, m *metrics, log *slog.Logger) *nights {
	c := v.config.Sleep
	return &nights{
		line: v.line, config: c, log: log.With("service", v.name), looking: make(chan struct{}, 1),
		bed: &engine.Bed{Client: v.transports.to(false, true), Scheme: v.transports.scheme, Port: c.Port,
			Level: c.Level},
		count: func(action, result string) { m.sleeps.WithLabelValues(v.name, action, result).Inc() },
		naps:  map[string]*nap{}, enough: map[string]enough{}, takes: firstTakes,
	}
}

// look has it looked soon whether a replica should wake. It never blocks.
func (n *nights) look() {
	select {
	case n.looking <- struct{}{}:
	default:
	}
}

// replace makes the given replicas the ones that are known.
func (n *nights) replace(replicas []line.Replica) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.replicas = replicas
	keep := make(map[string]bool, len(replicas))
	for _, r := range replicas {
		keep[r.ID] = true
		if p := n.naps[r.ID]; p == nil || p.address != r.Address {
			n.naps[r.ID] = &nap{id: r.ID, address: r.Address}
		}
	}
	for id := range n.naps {
		if !keep[id] {
			delete(n.naps, id)
		}
	}
	n.pass()
	n.look()
}

// pass gives the replicas on; under mu, so that an older list never follows a newer one.
func (n *nights) pass() {
	out := make([]line.Replica, len(n.replicas))
	for i, r := range n.replicas {
		r.Sleep = n.naps[r.ID].state.sleep()
		out[i] = r
	}
	n.next(out)
}

// suffice says how many replicas of a class are enough until a time.
func (n *nights) suffice(class string, replicas int, until time.Time) {
	n.mu.Lock()
	n.enough[class] = enough{replicas, until}
	n.mu.Unlock()
	n.look()
}

// run looks again and again until ctx ends.
func (n *nights) run(ctx context.Context) {
	tick := time.NewTicker(looks)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-n.looking:
		}
		n.step(ctx, time.Now())
	}
}

func (n *nights) step(ctx context.Context, now time.Time) {
	queued, active := n.line.Working()
	decides := n.line.Decides()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.naps {
		if p.state == drowsy && !decides {
			p.state = awake // what others have it do is not known here
		}
		n.tend(ctx, p, active, now)
	}
	if !decides {
		return // the gateway that does sees to it
	}
	if queued == 0 {
		n.drowse(active, now)
	}
	for range n.replicas {
		id, ok := n.line.Rouse(n.takes)
		if !ok || n.naps[id] == nil {
			return
		}
		n.rouse(ctx, n.naps[id], now)
		n.pass()
	}
}

// tend gives a replica the order that is due, if any.
func (n *nights) tend(ctx context.Context, p *nap, active map[string]int, now time.Time) {
	if p.busy {
		return
	}
	switch p.state {
	case unknown:
		n.ask(ctx, p)
	case away:
		if !now.Before(p.until) {
			n.ask(ctx, p)
		}
	case awake, sleeping:
		if !p.unable && now.Sub(p.asked) > asks {
			n.ask(ctx, p)
		}
	case drowsy:
		switch {
		case active[p.id] > 0:
			p.idle = time.Time{}
		case p.idle.IsZero():
			p.idle = now
		case now.Sub(p.idle) >= settles:
			n.sleep(ctx, p)
		}
	}
}

// drowse takes one replica out that is more than enough; it sleeps when it has
// finished what it has. The one with the least to do is taken.
func (n *nights) drowse(active map[string]int, now time.Time) {
	for class, e := range n.enough {
		if now.After(e.until) {
			continue
		}
		up := 0
		var best *nap
		for i := len(n.replicas) - 1; i >= 0; i-- { // the one that came last among equals
			r := &n.replicas[i]
			p := n.naps[r.ID]
			if class != "" && r.Class != class {
				continue
			}
			if p.state == awake || p.state == waking {
				up++
			}
			if p.state == awake && !p.unable && !p.busy && now.Sub(p.woken) >= stays &&
				(best == nil || active[r.ID] < active[best.id]) {
				best = p
			}
		}
		if best != nil && up > e.replicas {
			best.state, best.idle = drowsy, time.Time{}
			n.pass()
		}
	}
}

// rouse makes a replica take requests.
func (n *nights) rouse(ctx context.Context, p *nap, now time.Time) {
	if p.state == drowsy {
		p.state, p.woken = awake, now // it was not asleep yet
		return
	}
	p.state, p.unsound = waking, true
	began := now
	n.order(ctx, p, func(ctx context.Context) error { return n.bed.Wake(ctx, p.address) }, func(err error) {
		if err != nil {
			n.count("wake", "failed")
			p.leave(time.Now())
			n.log.Warn("a replica could not be woken", "replica", p.address,
				"again_in", time.Until(p.until).Round(time.Second), "error", err)
			return
		}
		n.count("wake", "ok")
		took := time.Since(began)
		n.takes += (took - n.takes) / 4
		p.state, p.woken, p.failures, p.unsound = awake, time.Now(), 0, false
		n.log.Info("a replica was woken", "replica", p.address, "took", took.Round(time.Millisecond))
	})
}

func (n *nights) sleep(ctx context.Context, p *nap) {
	p.state = falling
	n.order(ctx, p, func(ctx context.Context) error { return n.bed.Sleep(ctx, p.address) }, func(err error) {
		switch {
		case errors.Is(err, engine.ErrBusy):
			n.count("sleep", "busy")
			p.state, p.woken = awake, time.Now() // others use it
			if err != engine.ErrBusy {
				n.log.Warn("a replica is not put to sleep", "replica", p.address, "error", err)
			}
		case err != nil:
			n.count("sleep", "failed")
			p.state, p.woken, p.unsound = unknown, time.Now(), true
			n.log.Warn("a replica could not be put to sleep", "replica", p.address, "error", err)
		default:
			n.count("sleep", "ok")
			p.state = sleeping
			n.log.Info("a replica sleeps", "replica", p.address)
		}
	})
}

// ask finds out whether a replica sleeps.
func (n *nights) ask(ctx context.Context, p *nap) {
	var sleeps bool
	n.order(ctx, p, func(ctx context.Context) (err error) {
		sleeps, err = n.bed.Asleep(ctx, p.address)
		return err
	}, func(err error) {
		p.asked = time.Now()
		switch {
		case errors.Is(err, engine.ErrNoSleep):
			if !p.unable {
				n.log.Warn("a replica cannot be put to sleep", "replica", p.address, "error", err)
			}
			p.state, p.unable = awake, true
		case err != nil && (p.state == sleeping || p.state == away || p.unsound):
			p.leave(p.asked)
		case err != nil:
			p.state = awake // whether it can be reached at all its requests will show
		case sleeps:
			p.state, p.unsound = sleeping, false
		case p.unsound: // awake by its own word, perhaps without its weights
			p.state = sleeping
		default:
			p.state, p.failures = awake, 0
		}
	})
}

// order does something with a replica's engine, and then with what is known of it,
// unless another order was given meanwhile.
func (n *nights) order(ctx context.Context, p *nap, what func(context.Context) error, then func(error)) {
	p.busy = true
	p.orders++
	number := p.orders
	go func() {
		limited, cancel := context.WithTimeout(ctx, n.config.Timeout)
		err := what(limited)
		cancel()
		n.mu.Lock()
		defer n.mu.Unlock()
		if p.orders != number || n.naps[p.id] != p || ctx.Err() != nil {
			return
		}
		before := p.state
		p.busy = false
		if then(err); p.state != before {
			n.pass()
			n.look()
		}
	}()
}
