package gateway

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"aliquot.example/gateway/config"
	"aliquot.example/gateway/engine"
	"aliquot.example/gateway/line"
)

// sleepers tracks which replicas of a service sleep. It puts surplus replicas to sleep and wakes
// one when requests wait for it. A replica gets its first request only once it is known to be
// awake.
type sleepers struct {
	line    queue
	config  *config.Sleep
	engine  *engine.SleepMode
	next    func([]line.Replica) // receives the replicas with their sleep states
	count   func(action, result string)
	log     *slog.Logger
	looking chan struct{}

	mu          sync.Mutex
	replicas    []line.Replica
	known       map[string]*sleeper   // by replica
	awakeLimits map[string]awakeLimit // by class, "" for all classes together
	wakeTime    time.Duration         // moving average of the time to wake a replica
}

// awakeLimit is how many replicas of a class may stay awake.
type awakeLimit struct {
	replicas int
	until    time.Time
}

const (
	// initialWakeTime is the assumed time to wake a replica before the first measurement. Reports for
	// large models at level 1 say 3 to 6 s.
	initialWakeTime = 5 * time.Second
	// minAwake is how long a replica stays awake after it was woken.
	minAwake = time.Minute
	// minIdle is how long a replica must be idle before it sleeps: an engine stops the work of a
	// client that has left only a moment later.
	minIdle = time.Second
	// sleepCheckInterval is how often to check whether a replica should sleep or wake.
	sleepCheckInterval = time.Second
	// sleepPollInterval is how often to ask replicas whether they sleep: someone else may order it, or an engine
	// may restart.
	sleepPollInterval = 5 * time.Second
	// minSleepBackoff and maxSleepBackoff bound how long a replica that could not be woken is left alone.
	minSleepBackoff = 5 * time.Second
	maxSleepBackoff = 5 * time.Minute
)

func newSleepers(v *service, m *metrics, log *slog.Logger) *sleepers {
	c := v.config.Sleep
	return &sleepers{
		line: v.line, config: c, log: log.With("service", v.name), looking: make(chan struct{}, 1),
		engine: &engine.SleepMode{Client: v.transports.to(false, true), Scheme: v.transports.scheme, Port: c.Port,
			Level: c.Level},
		count: func(action, result string) { m.sleeps.WithLabelValues(v.name, action, result).Inc() },
		known: map[string]*sleeper{}, awakeLimits: map[string]awakeLimit{}, wakeTime: initialWakeTime,
	}
}

// checkSoon makes run check soon. It never blocks.
func (s *sleepers) checkSoon() {
	select {
	case s.looking <- struct{}{}:
	default:
	}
}

// replace sets the replicas of the service.
func (s *sleepers) replace(replicas []line.Replica) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replicas = replicas
	keep := make(map[string]bool, len(replicas))
	for _, r := range replicas {
		keep[r.ID] = true
		if p := s.known[r.ID]; p == nil || p.address != r.Address {
			s.known[r.ID] = &sleeper{id: r.ID, address: r.Address}
		}
	}
	for id := range s.known {
		if !keep[id] {
			delete(s.known, id)
		}
	}
	s.pass()
	s.checkSoon()
}

// pass gives the replicas to next. The caller holds mu, so that an older list never follows a newer
// one.
func (s *sleepers) pass() {
	out := make([]line.Replica, len(s.replicas))
	for i, r := range s.replicas {
		r.Sleep = s.known[r.ID].state.sleep()
		out[i] = r
	}
	s.next(out)
}

// setAwakeLimit records how many replicas of a class may stay awake until a time.
func (s *sleepers) setAwakeLimit(class string, replicas int, until time.Time) {
	s.mu.Lock()
	s.awakeLimits[class] = awakeLimit{replicas, until}
	s.mu.Unlock()
	s.checkSoon()
}

// run checks every second, or when checkSoon is called, until ctx ends.
func (s *sleepers) run(ctx context.Context) {
	tick := time.NewTicker(sleepCheckInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.looking:
		}
		s.step(ctx, time.Now())
	}
}

func (s *sleepers) step(ctx context.Context, now time.Time) {
	queued, active := s.line.Working()
	decides := s.line.Decides()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.known {
		if p.state == draining && !decides {
			p.state = awake // this gateway does not know its requests from other gateways
		}
		s.orderDue(ctx, p, active, now)
	}
	if !decides {
		return // the gateway that decides does the rest
	}
	if queued == 0 {
		s.drainSurplus(active, now)
	}
	for range s.replicas {
		id, ok := s.line.ToWake(s.wakeTime)
		if !ok || s.known[id] == nil {
			return
		}
		s.wake(ctx, s.known[id], now)
		s.pass()
	}
}

// orderDue sends a replica the order that is due, if any.
func (s *sleepers) orderDue(ctx context.Context, p *sleeper, active map[string]int, now time.Time) {
	if p.busy {
		return
	}
	switch p.state {
	case unknown:
		s.ask(ctx, p)
	case away:
		if !now.Before(p.until) {
			s.ask(ctx, p)
		}
	case awake, sleeping:
		if !p.noSleepMode && now.Sub(p.asked) > sleepPollInterval {
			s.ask(ctx, p)
		}
	case draining:
		switch {
		case active[p.id] > 0:
			p.idle = time.Time{}
		case p.idle.IsZero():
			p.idle = now
		case now.Sub(p.idle) >= minIdle:
			s.sleep(ctx, p)
		}
	}
}

// drainSurplus starts to drain one replica of each class that has more than enough; it sleeps when
// it has finished its requests.
func (s *sleepers) drainSurplus(active map[string]int, now time.Time) {
	for class, e := range s.awakeLimits {
		if now.After(e.until) {
			continue
		}
		if p := s.surplus(class, e.replicas, active, now); p != nil {
			p.state, p.idle = draining, time.Time{}
			s.pass()
		}
	}
}

// surplus returns the replica of a class that may sleep and has the fewest requests, the last one
// among equals. It returns nil if no more than enough are awake.
func (s *sleepers) surplus(class string, enough int, active map[string]int, now time.Time) (least *sleeper) {
	up := 0
	for _, r := range slices.Backward(s.replicas) {
		if class != "" && r.Class != class {
			continue
		}
		p := s.known[r.ID]
		if p.state == awake || p.state == waking {
			up++
		}
		if p.maySleep(now) && (least == nil || active[r.ID] < active[least.id]) {
			least = p
		}
	}
	if up <= enough {
		return nil
	}
	return least
}

// wake makes a replica ready for requests.
func (s *sleepers) wake(ctx context.Context, p *sleeper, now time.Time) {
	if p.state == draining {
		p.state, p.woken = awake, now // it was not asleep yet
		return
	}
	p.state, p.failed = waking, true
	began := now
	s.order(ctx, p, func(ctx context.Context) error { return s.engine.Wake(ctx, p.address) }, func(err error) {
		if err != nil {
			s.count("wake", "failed")
			p.backOff(time.Now())
			s.log.Warn("cannot wake a replica; trying again", "replica", p.address,
				"again_in", time.Until(p.until).Round(time.Second), "error", err)
			return
		}
		s.count("wake", "ok")
		took := time.Since(began)
		s.wakeTime += (took - s.wakeTime) / 4
		p.state, p.woken, p.failures, p.failed = awake, time.Now(), 0, false
		s.log.Info("a replica was woken", "replica", p.address, "took", took.Round(time.Millisecond))
	})
}

func (s *sleepers) sleep(ctx context.Context, p *sleeper) {
	p.state = fallingAsleep
	s.order(ctx, p, func(ctx context.Context) error { return s.engine.Sleep(ctx, p.address) }, func(err error) {
		switch {
		case errors.Is(err, engine.ErrBusy):
			s.count("sleep", "busy")
			p.state, p.woken = awake, time.Now() // other clients use it
			if err != engine.ErrBusy {
				s.log.Warn("a replica may be in use and stays awake", "replica", p.address, "error", err)
			}
		case err != nil:
			s.count("sleep", "failed")
			p.state, p.woken, p.failed = unknown, time.Now(), true
			s.log.Warn("cannot put a replica to sleep", "replica", p.address, "error", err)
		default:
			s.count("sleep", "ok")
			p.state = sleeping
			s.log.Info("a replica was put to sleep", "replica", p.address)
		}
	})
}

// ask asks a replica's engine whether it sleeps.
func (s *sleepers) ask(ctx context.Context, p *sleeper) {
	var sleeps bool
	s.order(ctx, p, func(ctx context.Context) (err error) {
		sleeps, err = s.engine.Asleep(ctx, p.address)
		return err
	}, func(err error) {
		p.asked = time.Now()
		switch {
		case errors.Is(err, engine.ErrNoSleep):
			if !p.noSleepMode {
				s.log.Warn("a replica's engine cannot sleep; it stays awake", "replica", p.address, "error", err)
			}
			p.state, p.noSleepMode = awake, true
		case err != nil && (p.state == sleeping || p.state == away || p.failed):
			p.backOff(p.asked)
		case err != nil:
			p.state = awake // its requests will show whether it can be reached
		case sleeps:
			p.state, p.failed = sleeping, false
		case p.failed: // it says that it is awake, but may lack its weights
			p.state = sleeping
		default:
			p.state, p.failures = awake, 0
		}
	})
}

// order runs what in the background and then calls then under mu, unless another order started in
// the meantime or the replica is gone.
func (s *sleepers) order(ctx context.Context, p *sleeper, what func(context.Context) error, then func(error)) {
	p.busy = true
	p.orders++
	number := p.orders
	go func() {
		limited, cancel := context.WithTimeout(ctx, s.config.Timeout)
		err := what(limited)
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		if p.orders != number || s.known[p.id] != p || ctx.Err() != nil {
			return
		}
		before := p.state
		p.busy = false
		if then(err); p.state != before {
			s.pass()
			s.checkSoon()
		}
	}()
}
