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

// service is what is known of one service; Router.mu guards it.
type service struct {
	name   string
	cancel context.CancelFunc // of its watch
	// known is set once the watch has answered.
	known      bool
	registered int // instances, those that are left out included
	instances  []weigh.Instance
	refused    []string // why instances are left out
	// outside is what subsets must differ from: what these claim.
	outside []weigh.Refused
	opted   bool // by the meta of an instance, when last there was any
	seen    map[string]time.Time
	// last is the newest instance of each group in seen, for its weight when it is
	// gone.
	last      map[string]weigh.Instance
	order     []string
	lastWrite time.Time
	failures  int
	status    Status
}

// maxSteps bounds the writes of one reconciliation; the longest real one has
// fewer than 4 per rule.
const maxSteps = 400

var (
	errConflict = errors.New("another writer changed the entry at the same time")
	errNotLead  = errors.New("no longer leading")
)

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

// reconcile brings the entries of one service to what they should be.
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

// view takes a consistent look at one service. The last result is false while too
// little is known to decide anything.
func (r *Router) view(name string) (weigh.View, bool, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.services[name]
	if s == nil || !s.known || !r.leading {
		return weigh.View{}, false, false
	}
	now := time.Now()
	v := weigh.View{
		Service: name, Protocol: r.config.ProtocolOf(name), ProtocolNamed: r.config.Services[name].Protocol != "",
		Inherited: r.cache[weigh.Inherited()].Entry.Protocol, Tuning: r.config.TuningOf(name), Instances: s.instances,
		Refused: s.outside,
		Rules:   r.config.Services[name].Rules, Order: s.order, Have: r.scope(name),
		LastWrite: s.lastWrite, Now: now, Limits: r.config.Limits,
	}
	if o, ok := v.Have[weigh.Key{Kind: weigh.Resolver, Name: name}]; ok && o.Ours {
		for _, group := range weigh.Groups(o.Entry) {
			if s.seen[group].IsZero() {
				s.seen[group] = now // since we know of it; a restart begins its time again
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
	optedOut := route != nil && !*route || route == nil && s.registered > 0 && !s.opted
	return v, optedOut, true
}

// weights is what is expected of a service's groups; Router.mu is held.
func (r *Router) weights(s *service, now time.Time) map[string]weigh.Weight {
	known := learned.Known(now, r.rates[s.name], r.profiles.Profiles[s.name], r.config.Trust.Believes)
	rates := ratesOf(known)
	return weigh.Weights(s.instances, s.gone(), rates, r.config.Profiles(s.name), r.config.Trust, now)
}

// ratesOf is what gateways measured of a service, in tokens a second where they count in
// tokens. A class that was measured by its requests only is brought to tokens by what a
// request of the service is on average.
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
			if total == 1 { // which gateways also say where it is not known
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

// gone lists an instance for each group that is known of. Of one that was gone when
// this router began only the name is known, which contains its class and slices.
func (s *service) gone() []weigh.Instance {
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

// scope lists the entries that concern a service. Those that the router wrote for
// another count as not ours.
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

// apply takes the steps from what there is to what the plan wants.
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
		if err := r.take(ctx, v.Service, step, have); err != nil {
			return wrote, err
		}
	}
	return maxSteps, fmt.Errorf("no end after %d writes", maxSteps)
}

// take does one step. The index is read before leadership is checked: what another
// leader writes after the check makes the check-and-set fail.
func (r *Router) take(ctx context.Context, service string, step weigh.Step, have map[weigh.Key]weigh.Observed) error {
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
	// The answer does not tell the new index.
	o := weigh.Observed{Entry: step.Entry, Ours: true, Exact: true}
	have[key] = o
	r.learn(key, &Stored{Observed: o, Service: service})
	return nil
}

// index returns the index for check-and-set. Where it has to be read, an entry
// that is not as it was thought to be is a conflict.
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

// reread replaces what is thought of an entry by what it is.
func (r *Router) reread(ctx context.Context, service string, key weigh.Key) {
	s, there, err := r.entries.Get(ctx, key)
	switch {
	case err != nil:
		r.log.Debug("config entry could not be read", "entry", key.String(), "service", service, "error", err)
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

// conclude keeps the outcome and sees to it that the service is looked at again
// when it has to be.
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
	case err != nil:
		s.failures++
		again = min(250*time.Millisecond<<min(s.failures, 10), 30*time.Second)
	default:
		s.failures = 0
		again = r.nextLook(s, again)
	}
	r.mu.Unlock()
	r.say(before, after)
	if again > 0 {
		r.queue.addAfter(name, again)
	}
	if len(plan.Want) == 0 && plan.Want != nil && err == nil {
		r.track() // nothing of ours is left: its watch may end
	}
}

// nextLook is when something changes by time alone: a held write falls due, a gone
// group's subset goes, a learned rate ages.
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

// say logs a change of state once.
func (r *Router) say(before, after Status) {
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
