package router

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"aliquot.example/internal/learned"
	"aliquot.example/internal/weigh"
)

// service is the state of one service; Router.mu guards it.
type service struct {
	name   string
	cancel context.CancelFunc // of its watch
	// known is set once the watch has answered.
	known      bool
	registered int // number of instances, including ignored ones
	instances  []weigh.Instance
	refused    []string // why instances are ignored
	// outside describes the ignored instances: subsets must not match them.
	outside []weigh.Refused
	opted   bool                 // by the meta of an instance, when the service last had any
	seen    map[string]time.Time // when each group last had an instance
	// last is the newest instance of each group in seen. It gives the group's weight after the
	// instance is gone.
	last      map[string]weigh.Instance
	order     []string
	lastWrite time.Time
	failures  int
	status    Status
}

// maxSteps limits the writes of one reconciliation. A real one has fewer than 4 per rule.
const maxSteps = 400

var (
	errConflict = errors.New("another writer changed the entry at the same time")
	errNotLead  = errors.New("Consul has not renewed the leader's session in time")
)

// doubtPause is the time until a write is tried again that was due while it was uncertain whether this
// router still leads.
const doubtPause = 250 * time.Millisecond

// work reconciles services from the queue until ctx ends.
func (r *Router) work(ctx context.Context) {
	for {
		name, ok := r.queue.next(ctx)
		if !ok {
			return
		}
		start := time.Now()
		r.reconcile(ctx, name)
		r.metrics.duration.Observe(time.Since(start).Seconds())
		r.queue.done(name)
	}
}

// reconcile writes the entries of one service until they match the plan.
func (r *Router) reconcile(ctx context.Context, name string) {
	var plan weigh.Plan
	var wrote int
	err := errConflict
	for range 5 {
		view, optedOut, ok := r.view(name)
		if !ok {
			return
		}
		plan = weigh.Plan{Want: map[weigh.Key]weigh.Entry{}, Reason: "opted out"}
		if !optedOut {
			plan = weigh.Build(view)
		}
		if wrote, err = r.apply(ctx, view, plan); !errors.Is(err, errConflict) {
			break
		}
	}
	r.conclude(ctx, name, plan, wrote, err)
}

// view returns a consistent view of one service, and whether the service has opted out. ok is false
// while too little is known for a decision.
func (r *Router) view(name string) (v weigh.View, optedOut, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.services[name]
	if s == nil || !s.known || !r.leading {
		return weigh.View{}, false, false
	}
	now := time.Now()
	v = weigh.View{
		Service: name, Protocol: r.config.ProtocolOf(name), ProtocolNamed: r.config.Services[name].Protocol != "",
		Inherited: r.cache[weigh.Inherited()].Entry.Protocol, Tuning: r.config.TuningOf(name), Instances: s.instances,
		Refused: s.outside,
		Rules:   r.config.Services[name].Rules, Order: s.order, Have: r.scope(name),
		LastWrite: s.lastWrite, Now: now, Limits: r.config.Limits,
	}
	if o, ok := v.Have[weigh.Key{Kind: weigh.Resolver, Name: name}]; ok && o.Ours {
		for _, group := range weigh.Groups(o.Entry) {
			if s.seen[group].IsZero() {
				s.seen[group] = now // the real time is unknown after a restart: retain the group from now on
			}
		}
	}
	maps.DeleteFunc(s.seen, func(_ string, at time.Time) bool { return now.Sub(at) > 2*v.Limits.Retain })
	for _, in := range s.instances {
		s.seen[in.Group.Name()], s.last[in.Group.Name()] = now, in
	}
	maps.DeleteFunc(s.last, func(name string, _ weigh.Instance) bool { return s.seen[name].IsZero() })
	v.Seen = maps.Clone(s.seen)
	v.Weights = r.weights(s, now)
	route := r.config.Services[name].Route
	optedOut = route != nil && !*route || route == nil && s.registered > 0 && !s.opted
	return v, optedOut, true
}

// weights returns the expected speed of a service's groups. The caller holds Router.mu.
func (r *Router) weights(s *service, now time.Time) map[string]weigh.Weight {
	known := learned.Known(now, r.rates[s.name], r.profiles.Profiles[s.name], r.config.Trust.Believes)
	rates := ratesOf(known)
	return weigh.Weights(s.instances, s.lastSeen(), rates, r.config.Profiles(s.name), r.config.Trust, now)
}

// ratesOf converts the measured rates of a service, in requests per second, to tokens per second if
// gateways count its tokens. For a class without a token rate it uses the service's mean tokens per
// request.
func ratesOf(measured map[string]learned.Merged) map[string]weigh.Rate {
	rates := map[string]weigh.Rate{}
	var tokens, samples float64
	for class, m := range measured {
		if m.Replica <= 0 {
			continue
		}
		one := weigh.Rate{
			Replica: m.Replica, Samples: m.Samples, Updated: m.Updated, Bench: m.Source == learned.FromProfile,
		}
		for key, c := range m.Tokens {
			slices, total, ok := learned.ParseSlices(key)
			if !ok || c.Speed() <= 0 {
				continue
			}
			tokens += (c.Prompt + c.Output) * c.Samples
			samples += c.Samples
			if one.Groups == nil {
				one.Groups = map[string]weigh.Measured{}
			}
			bench := m.SourceOf(key) == learned.FromProfile
			of := weigh.Measured{Replica: c.Speed(), Samples: c.Samples, Bench: bench}
			one.Groups[weigh.GroupOf(class, slices, total).Name()] = of
			if total == 1 { // gateways also report 1 if they do not know the total
				one.Groups[weigh.GroupOf(class, slices, 0).Name()] = of
			}
		}
		rates[class] = one
	}
	if samples == 0 {
		return rates
	}
	for class, one := range rates {
		one.Replica, one.Tokens = one.Replica*tokens/samples, true
		rates[class] = one
	}
	return rates
}

// lastSeen returns one instance for each group in seen. If a group had no instance since this router
// started, its name gives class and slices.
func (s *service) lastSeen() []weigh.Instance {
	var out []weigh.Instance
	for name := range s.seen {
		in, ok := s.last[name]
		if !ok {
			g, err := weigh.ParseGroup(name)
			if err != nil {
				continue
			}
			in.Group = g
		}
		out = append(out, in)
	}
	return out
}

// scope returns the entries that affect a service. Entries that the router wrote for another
// service count as not ours.
func (r *Router) scope(name string) map[weigh.Key]weigh.Observed {
	out := map[weigh.Key]weigh.Observed{}
	for key, s := range r.cache {
		if key.Name == name || s.Service == name || strings.HasPrefix(key.Name, weigh.RuleService(name, "")) {
			o := s.Observed
			o.Ours = o.Ours && s.Service == name
			out[key] = o
		}
	}
	return out
}

// apply writes the steps from the present entries to those of the plan. It returns the number of
// writes.
func (r *Router) apply(ctx context.Context, v weigh.View, plan weigh.Plan) (int, error) {
	if plan.Want == nil {
		return 0, nil
	}
	have := maps.Clone(v.Have)
	for wrote := 0; wrote < maxSteps; wrote++ {
		step, ok := weigh.Next(have, plan.Want)
		if !ok {
			return wrote, nil
		}
		if err := r.writeStep(ctx, v.Service, step, have); err != nil {
			return wrote, err
		}
	}
	return maxSteps, fmt.Errorf("entries still differ from the plan after %d writes", maxSteps)
}

// writeStep writes one step. It reads the index before it checks leadership, so that the check-and-set
// fails if another leader writes after the check.
func (r *Router) writeStep(
	ctx context.Context, service string, step weigh.Step, have map[weigh.Key]weigh.Observed,
) error {
	key := step.Entry.Key
	index, err := r.index(ctx, service, key, have)
	if err != nil {
		return err
	}
	if !r.mayWrite() {
		return errNotLead
	}
	verb, do := "put", func() (bool, error) { return r.entries.Put(ctx, step.Entry, service, index) }
	if step.Delete {
		verb, do = "delete", func() (bool, error) { return r.entries.Delete(ctx, key, index) }
	}
	ok, err := do()
	result := "ok"
	switch {
	case err != nil:
		result = "error"
	case !ok:
		result = "conflict"
	}
	r.metrics.writes.WithLabelValues(string(key.Kind), verb, result).Inc()
	if err != nil || !ok {
		r.reread(ctx, service, key)
		if err == nil {
			err = errConflict
		}
		return err
	}
	args := []any{"entry", key.String(), "operation", verb, "service", service}
	if step.Entry.Protocol != "" {
		args = append(args, "protocol", step.Entry.Protocol)
	}
	r.log.Info("config entry written", args...)
	if step.Delete {
		delete(have, key)
		r.learn(key, nil)
		return nil
	}
	// The response does not contain the new index.
	o := weigh.Observed{Entry: step.Entry, Ours: true, Exact: true}
	have[key] = o
	r.learn(key, &Stored{Observed: o, Service: service})
	return nil
}

// index returns the index for check-and-set. If it has to be read from Consul and the entry differs
// from have, index returns errConflict.
func (r *Router) index(ctx context.Context, service string, key weigh.Key,
	have map[weigh.Key]weigh.Observed) (uint64, error) {
	o, ok := have[key]
	if !ok || o.Index != 0 {
		return o.Index, nil
	}
	s, there, err := r.entries.Get(ctx, key)
	if err != nil {
		return 0, err
	}
	if !there {
		r.learn(key, nil)
		return 0, errConflict
	}
	r.learn(key, &s)
	if !s.Ours || s.Service != service || !s.Exact || !weigh.Same(s.Entry, o.Entry) {
		return 0, errConflict
	}
	return s.Index, nil
}

// reread updates the cache with the entry in Consul.
func (r *Router) reread(ctx context.Context, service string, key weigh.Key) {
	s, there, err := r.entries.Get(ctx, key)
	switch {
	case err != nil:
		r.log.Debug("cannot read config entry", "entry", key.String(), "service", service, "error", err)
	case there:
		r.learn(key, &s)
	default:
		r.learn(key, nil)
	}
}

func (r *Router) mayWrite() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leading && r.valid != nil && r.valid()
}

// conclude stores the outcome of a reconciliation and queues the service again for the time at
// which it has to be reconciled next.
func (r *Router) conclude(ctx context.Context, name string, plan weigh.Plan, wrote int, err error) {
	if ctx.Err() != nil {
		return
	}
	r.mu.Lock()
	s := r.services[name]
	if s == nil {
		r.mu.Unlock()
		return
	}
	before := s.status
	s.order = plan.Order
	if wrote > 0 {
		s.lastWrite = time.Now()
	}
	s.status = r.statusOf(s, plan, err)
	after := s.status
	again := plan.Wait
	switch {
	case errors.Is(err, errNotLead):
		// A late renewal starts no new term, so nothing else would queue the service again.
		again = doubtPause
	case err != nil:
		s.failures++
		again = min(250*time.Millisecond<<min(s.failures, 10), 30*time.Second)
	default:
		s.failures = 0
		again = r.nextLook(s, again)
	}
	r.mu.Unlock()
	r.logStatus(before, after)
	if again > 0 {
		r.queue.addAfter(name, again)
	}
	if len(plan.Want) == 0 && plan.Want != nil && err == nil {
		r.track() // no entry of ours is left: the watch may end
	}
}

// nextLook returns the time until something changes without an event: a held write is due, the
// subset of a group without instances expires, or a learned rate ages.
func (r *Router) nextLook(s *service, wait time.Duration) time.Duration {
	earlier := func(d time.Duration) {
		if d > 0 && (wait == 0 || d < wait) {
			wait = d
		}
	}
	here := map[string]bool{}
	for _, in := range s.instances {
		here[in.Group.Name()] = true
	}
	for group, at := range s.seen {
		if !here[group] {
			earlier(time.Until(at.Add(r.config.Limits.Retain)) + 10*time.Millisecond)
		}
	}
	if len(r.rates[s.name]) > 0 {
		earlier(r.config.Trust.MaxAge / 20)
	}
	return wait
}

// logStatus logs a change of status.
func (r *Router) logStatus(before, after Status) {
	if before.State == after.State && before.Reason == after.Reason && slices.Equal(before.Blocked, after.Blocked) &&
		slices.Equal(before.Notes, after.Notes) {
		return
	}
	args := []any{"service", after.Service, "state", after.State, "reason", after.Reason}
	if len(after.Blocked) > 0 {
		args = append(args, "blocked", strings.Join(after.Blocked, "; "))
	}
	if len(after.Notes) > 0 {
		args = append(args, "notes", strings.Join(after.Notes, "; "))
	}
	switch after.State {
	case StateBlocked, StateRefused, StateError:
		r.log.Warn("service", args...)
	default:
		r.log.Debug("service", args...)
	}
}
