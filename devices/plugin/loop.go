package plugin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/device"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/share"
)

const (
	// settleTime is how long the first fingerprint waits for daemons that the vendor has
	// just started, so that a node registers with healthy devices.
	settleTime = 3 * time.Second
	settlePoll = 100 * time.Millisecond
	// stallTime is how long one round may take. Calls into a hung driver never return and
	// cannot be cancelled, so after this time the GPUs count as unhealthy. It is long because
	// the first calls wake the GPUs, which takes seconds for each.
	stallTime = 30 * time.Second
	// maxWakes is the maximum number of rounds per second that events of a vendor can cause:
	// a failing GPU raises thousands of errors.
	maxWakes = 5
)

// Patience is the number of consecutive readings that must fail before a healthy GPU counts as
// unhealthy. Single calls fail under load, and each flip costs Nomad two writes and several
// evaluations. It applies only to missing answers: a fault that a GPU or its driver reports counts
// at once.
const Patience = 3

// loop reconciles the host while at least one fingerprint stream is open.
type loop struct {
	maker         gpu.Vendor
	config        Config
	vendor        Vendor
	log           hclog.Logger
	wake          chan struct{}
	owners        *owners
	claim         *claim
	heldInstances *heldInstances

	numbers *Numbers

	// reading guards vendor.Inventory and what follows from it.
	reading  sync.Mutex
	found    []share.Found
	failures int
	logOnce  *onceLog
	held     bool // the last round found tasks with instances that are no longer offered

	// measuring guards last, the newest reading of load, and pending, a channel that is
	// closed at the end of the reading in progress.
	measuring sync.Mutex
	last      readings
	pending   chan struct{}

	mu      sync.Mutex
	streams int
	cancel  context.CancelFunc
	ended   chan struct{} // closed when the newest loop has ended
	plan    share.Plan
	planned bool
	states  map[gpu.ID]State      // of the last round
	refused map[gpu.ID]string     // why this package, not the vendor, withholds an offer
	stalled string                // why the current round takes too long, else ""
	groups  []*device.DeviceGroup // nil until the first fingerprint is ready
	changed chan struct{}         // closed and replaced when groups change
}

func newLoop(maker gpu.Vendor, config Config, vendor Vendor, host Host, wake chan struct{}) *loop {
	return &loop{
		maker: maker, config: config, vendor: vendor, log: host.Log, wake: wake, numbers: host.Numbers,
		owners: newOwners(config.DockerSocket), claim: newClaim(config.RunDir, maker), heldInstances: &heldInstances{},
		logOnce: &onceLog{log: host.Log, logged: map[string]bool{}}, changed: make(chan struct{}),
	}
}

// acquire starts the loop for the first stream, and release stops it after the last. Daemons that
// the vendor has started on the host keep running.
func (l *loop) acquire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams++; l.streams > 1 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	before, ended := l.ended, make(chan struct{})
	l.ended = ended
	go func() {
		defer close(ended)
		if before != nil {
			<-before // one round at a time, also across restarts
		}
		l.run(ctx)
	}()
	if l.config.MetricsAddress != "" {
		go l.serveMetrics(ctx)
	}
	if l.config.Packing != nil {
		go l.follow(ctx)
	}
}

// release also forgets the groups, so that a later stream starts with a new reading.
func (l *loop) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams--; l.streams == 0 {
		l.cancel()
		l.groups = nil
	}
}

func (l *loop) running() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.streams > 0
}

func (l *loop) run(ctx context.Context) {
	settled := time.Now().Add(settleTime)
	var second time.Time // start of the second in which wakes are counted
	wakes := 0
	for {
		starting := l.round(ctx, !time.Now().Before(settled))
		period := l.config.Period
		if starting && time.Now().Before(settled) {
			period = settlePoll
		}
		due, wake := time.After(period), l.wake
		if time.Since(second) >= time.Second {
			second, wakes = time.Now(), 0
		}
		if wakes >= maxWakes {
			wake = nil // leave the event in the channel until the next second
			due = time.After(min(period, time.Until(second.Add(time.Second))))
		}
		select {
		case <-ctx.Done():
			return
		case <-wake:
			wakes++
		case <-due:
		}
	}
}

// round runs one step and reports the GPUs as unhealthy if the step takes too long. It returns only
// after the step, however long that takes, since a second step would hang in the same call.
func (l *loop) round(ctx context.Context, publish bool) (starting bool) {
	done := make(chan bool, 1)
	go func() { done <- l.step(ctx, publish) }()
	late := time.NewTimer(stallTime)
	defer late.Stop()
	for {
		select {
		case starting = <-done:
			return starting
		case <-late.C:
			l.stall(ctx)
		}
	}
}

// stall reports to Nomad that the GPUs do not answer.
func (l *loop) stall(ctx context.Context) {
	why := fmt.Sprintf("the GPUs' driver has not answered for %s", stallTime)
	l.log.Warn(why + ": the GPUs are unhealthy until it answers; check the kernel's log and look for hung processes")
	l.mu.Lock()
	l.stalled = why
	plan, states := l.plan, map[gpu.ID]State{}
	for _, o := range plan.Offers {
		s := l.states[o.ID]
		s.Problem, s.Starting = why, false
		states[o.ID] = s
	}
	known := l.groups != nil
	l.mu.Unlock()
	if known || len(plan.Offers) > 0 {
		l.publish(ctx, groupsOf(l.maker, plan, states, l.heldInstances.now()))
	}
}

// step reads, plans, converges and publishes the groups. It reports whether something is still
// starting; until then it does not publish the first groups, unless publish is set.
func (l *loop) step(ctx context.Context, publish bool) (starting bool) {
	l.reading.Lock()
	plan, lost := l.read(ctx)
	l.reading.Unlock()
	if ctx.Err() != nil {
		return false
	}
	states := map[gpu.ID]State{}
	if why := l.claim.missing(); why != "" {
		// Do not converge: the plugin that holds the lock has configured the GPUs.
		l.logOnce.once("claim", hclog.Warn, "no devices are offered: "+why)
		for _, o := range plan.Offers {
			lost[o.ID] = why
		}
	} else {
		l.logOnce.once("claim", hclog.Debug, "locked the run directory")
		maps.Copy(states, l.vendor.Converge(ctx, plan)) // the vendor's own map stays as it is
	}
	for id, why := range lost {
		s := states[id]
		if s.Problem != "" {
			why += "; " + s.Problem // the vendor may know the cause
		}
		s.Problem, s.Starting = why, false
		states[id] = s
	}
	refused := maps.Clone(lost)
	for id, why := range l.staleHolders(ctx, plan) {
		if s := states[id]; s.Problem == "" {
			s.Problem, s.Starting = why, false
			states[id] = s
		}
		refused[id] = why
	}
	for _, s := range states {
		starting = starting || s.Starting
	}
	l.mu.Lock()
	first := l.groups == nil
	back := l.stalled != ""
	l.states, l.refused, l.stalled = states, refused, ""
	l.mu.Unlock()
	if back {
		l.log.Info("the GPUs' driver answers again")
	}
	if first && starting && !publish {
		return true
	}
	l.publish(ctx, groupsOf(l.maker, plan, states, l.heldInstances.now()))
	return starting
}

// read updates inventory and plan. The caller holds reading. The second result has the reason for
// every offer that could not be read.
func (l *loop) read(ctx context.Context) (share.Plan, map[gpu.ID]string) {
	found, err := l.vendor.Inventory(ctx)
	lost := map[gpu.ID]string{}
	switch {
	case err == nil:
		l.failures = 0
		l.logOnce.cleared("inventory", "GPUs can be read again")
		found = l.renumber(keepMissing(l.found, l.switches(found), lost))
	case errors.Is(err, ErrAbsent) && len(l.found) == 0:
		l.logOnce.once("inventory", hclog.Info, "no devices are offered: "+err.Error())
	default:
		found = l.found
		l.failures++
		l.logOnce.once("inventory", hclog.Warn, "GPUs cannot be read, keeping the known ones: "+err.Error())
		if l.failures >= Patience || errors.Is(err, ErrAbsent) {
			for _, f := range found {
				lost[f.ID] = "GPU cannot be read: " + err.Error()
			}
		}
	}
	l.found = found
	plan := share.NewPlan(found, l.config.Rules)
	l.logOnce.plan(plan.Notes)
	l.mu.Lock()
	l.plan, l.planned = plan, l.planned || err == nil
	l.mu.Unlock()
	return plan, lost
}

// keepMissing adds the physical GPUs, with their partitions, that have disappeared since before,
// because their allocations may still run, and adds a reason for each to lost. It drops partitions
// that have disappeared from a GPU that still answers: somebody removed them on purpose, for which
// they had to be idle.
func keepMissing(before, now []share.Found, lost map[gpu.ID]string) []share.Found {
	present := map[gpu.ID]bool{}
	for _, f := range now {
		present[f.ID] = true
	}
	out := now
	for _, f := range before {
		if present[f.ID] || f.Parent != "" && present[f.Parent] {
			continue
		}
		out = append(out, f)
		lost[f.ID] = "GPU is gone: the driver no longer lists it"
	}
	return out
}

// renumber gives every physical GPU the index that it had first. MIG devices that have the index of
// their GPU change with it.
func (l *loop) renumber(found []share.Found) []share.Found {
	out := slices.Clone(found)
	var counted []Counted
	for _, f := range out {
		if f.Parent == "" {
			counted = append(counted, Counted{f.ID, f.Index})
		}
	}
	number := map[Counted]int{}
	for i, n := range l.numbers.Of(counted) {
		number[counted[i]] = n
	}
	for i, f := range out {
		physical := f.ID
		if f.Parent != "" {
			physical = f.Parent
		}
		if n, ok := number[Counted{physical, f.Index}]; ok {
			out[i].Index = n
		}
	}
	return out
}

// publish publishes groups if they changed and ctx, the loop's, has not ended.
func (l *loop) publish(ctx context.Context, groups []*device.DeviceGroup) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	if l.groups != nil && reflect.DeepEqual(groups, l.groups) {
		return
	}
	l.groups = groups
	close(l.changed)
	l.changed = make(chan struct{})
}

// stream sends the groups now and after each change until ctx ends.
func (l *loop) stream(ctx context.Context, out chan<- *device.FingerprintResponse) {
	for {
		l.mu.Lock()
		groups, changed := l.groups, l.changed
		l.mu.Unlock()
		if groups != nil {
			select {
			case out <- device.NewFingerprint(groups...):
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// current returns the plan. It reads the inventory if no round has read it yet, because Nomad may
// reserve before it fingerprints.
func (l *loop) current(ctx context.Context) share.Plan {
	l.mu.Lock()
	plan, planned := l.plan, l.planned
	l.mu.Unlock()
	if planned {
		return plan
	}
	l.reading.Lock()
	defer l.reading.Unlock()
	plan, _ = l.read(ctx)
	return plan
}
