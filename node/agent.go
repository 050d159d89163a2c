// Package node installs the wanted driver on a node: it makes Nomad move the tasks, installs
// packages, loads the driver or reboots, and returns the node to service when the device plugin
// reports healthy GPUs. Package internal/driver decides each step; this package reads the state and
// executes the steps.
package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"
	"golang.org/x/sys/unix"

	"aliquot.example/internal/driver"
	"aliquot.example/internal/host"
	"aliquot.example/internal/host/inventory"
)

// Config is the configuration of an agent.
type Config struct {
	// Root is the root directory of the host whose driver the agent manages.
	Root host.Root
	// Dir is the directory for the agent's state and packages, below the root.
	Dir string
	// RunDir is the run_dir of the device plugins, below the root.
	RunDir string
	// Prefix is the prefix of the documents in Consul KV.
	Prefix string
	// NodeID is Nomad's ID of the node; "" for the node of the Nomad agent.
	NodeID string
	// Interval is the pause between two steps.
	Interval time.Duration
}

// Agent manages the driver of one node.
type Agent struct {
	conf  Config
	nomad *nomad.Client
	docs  Documents
	log   *slog.Logger

	state     driver.State
	published []byte
	offers    offers
}

// offers caches the versions that the host's package sources offer.
type offers struct {
	at       time.Time
	want     driver.Want
	versions map[string][]string
}

// offersTTL is how long cached offers are valid.
const offersTTL = 10 * time.Minute

// New returns an agent.
func New(conf Config, n *nomad.Client, c *consul.Client, log *slog.Logger) *Agent {
	return &Agent{conf: conf, nomad: n, docs: Documents{c.KV(), conf.Prefix}, log: log}
}

// Run works until the context ends. It completes an action on the host before it returns.
func (a *Agent) Run(ctx context.Context) error {
	unlock, err := a.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := a.begin(ctx); ctx.Err() != nil {
		return nil
	} else if err != nil {
		return err
	}
	a.log.Info("managing the node's driver", "node", a.conf.NodeID, "phase", a.state.Phase)
	trouble := ""
	for {
		verb, err := a.step(ctx)
		if ctx.Err() != nil {
			return nil
		}
		text := ""
		if err != nil {
			text = err.Error()
		}
		if text != "" && text != trouble {
			a.log.Warn("cannot read the state of the node, retrying: " + text)
		}
		trouble = text
		if err == nil && verb != driver.Wait {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(a.conf.Interval):
		}
	}
}

// begin loads the state with which an earlier agent ended.
func (a *Agent) begin(ctx context.Context) error {
	state, err := a.load()
	if err != nil {
		return err
	}
	a.state = state.Restarted(time.Now())
	a.giveBack(ctx)
	if a.conf.NodeID == "" {
		a.conf.NodeID, err = ownNode(ctx, a.nomad)
	}
	return err
}

// giveBack lets the device plugin use the driver again, and starts services, if the marker exists
// without a change in progress. An agent that ended between an action and saving its state, or
// whose state was lost, leaves the marker behind, and no step would remove it.
func (a *Agent) giveBack(ctx context.Context) {
	k := a.kernel(driver.Maker{})
	if a.state.Phase.Begun() || !k.root.Exists(k.marker) {
		return
	}
	a.log.Warn("no change is in progress, but the device plugin is still paused for one: resuming it",
		"file", k.root.Path(k.marker))
	ctx, cancel := withTimeout(context.WithoutCancel(ctx), hostTimeout)
	defer cancel()
	if err := k.resume(ctx); err != nil {
		a.log.Warn("cannot resume the device plugin and the driver's services", "error", err)
	}
}

// kernel returns the host's kernel, for the driver of a vendor.
func (a *Agent) kernel(m driver.Maker) kernel {
	return kernel{root: a.conf.Root, maker: m, marker: filepath.Join(a.conf.RunDir, host.DriverChange),
		stopped: filepath.Join(a.conf.Dir, "stopped")}
}

// step reads the state, decides and acts once. Its error is that of reading or saving state:
// without these it does not act.
func (a *Agent) step(ctx context.Context) (driver.Verb, error) {
	looking, cancel := withTimeout(ctx, lookTimeout)
	defer cancel()
	seen, err := a.look(looking)
	if err != nil {
		return driver.Wait, err
	}
	state, verb := driver.Step(a.state, seen)
	if err := a.saveState(state); err != nil {
		return driver.Wait, err
	}
	a.giveBack(ctx)
	a.publish(ctx, seen, "")
	if verb == driver.Wait || verb == driver.Again {
		return verb, nil
	}
	a.log.Info("starting an action", "action", string(verb), "phase", string(state.Phase),
		"version", state.Plan.Version)
	// Complete the action even if the agent is stopped: half an installation is worse than a late end.
	doing, cancel := withTimeout(context.WithoutCancel(ctx), timeoutOf(verb))
	defer cancel()
	err = a.watched(ctx, verb, seen, func() error { return a.do(doing, verb, seen) })
	if err != nil {
		a.log.Error("action failed", "action", string(verb), "error", err)
	}
	return driver.Again, a.saveState(a.state.After(verb, err, time.Now()))
}

// Time limits for operations that may hang: requests to a mirror, Nomad or Consul, and programs of
// the host. lookTimeout includes updating the package lists. packageTimeout is many times what DKMS
// needs to compile modules on a slow machine, because half an installation is worse than a late
// one; but one that never ends would hold the node and its slot.
const (
	lookTimeout    = 10 * time.Minute
	fetchTimeout   = 2 * time.Hour
	packageTimeout = 2 * time.Hour
	hostTimeout    = 10 * time.Minute
	askTimeout     = time.Minute
	// slow is the duration after which the node's report says that an action takes long.
	slow = 5 * time.Minute
)

// timeoutOf returns how long an action may take.
func timeoutOf(v driver.Verb) time.Duration {
	switch v {
	case driver.Fetch:
		return fetchTimeout
	case driver.Install, driver.Restore:
		return packageTimeout
	case driver.Hold, driver.Release, driver.Resume, driver.LoadModule, driver.BootAgain:
		return hostTimeout
	}
	return askTimeout
}

// withTimeout is context.WithTimeout with a cause that names the time limit.
func withTimeout(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than %s", limit))
}

// watched runs an action. If it takes long, the node's report says so, so that operators notice a
// program that hangs.
func (a *Agent) watched(ctx context.Context, verb driver.Verb, seen driver.Seen, do func() error) error {
	began, done := time.Now(), make(chan error, 1)
	go func() { done <- do() }()
	tick := time.NewTicker(slow)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			a.publish(context.WithoutCancel(ctx), seen, takesLong(verb, time.Since(began)))
		}
	}
}

// takesLong returns the report's text for an action that takes long.
func takesLong(verb driver.Verb, since time.Duration) string {
	taken := since.Round(time.Minute)
	if limit := timeoutOf(verb); since <= limit {
		return fmt.Sprintf("%s has been running for %s; its time limit is %s", verb, taken, limit)
	}
	return fmt.Sprintf("%s has been running for %s and cannot be killed: a program hangs in the kernel; check the host",
		verb, taken)
}

// do does what was decided.
func (a *Agent) do(ctx context.Context, verb driver.Verb, seen driver.Seen) error {
	s := a.state
	switch verb {
	case driver.TakeSlot:
		return a.docs.change(ctx, func(slots driver.Slots) (driver.Slots, bool) {
			if slots.May(seen.ID, s.Holder(seen), seen.Wanted, s.Want) != "" {
				return slots, false // another node was faster; the next step shows which
			}
			return slots.Take(seen.ID, s.Holder(seen)), true
		})
	case driver.GiveSlot:
		return a.docs.change(ctx, func(slots driver.Slots) (driver.Slots, bool) {
			return slots.Give(seen.ID, time.Now()), true
		})
	case driver.KeepSlot:
		return a.docs.change(ctx, func(slots driver.Slots) (driver.Slots, bool) {
			_, has := slots.Holders[seen.ID]
			return slots.Take(seen.ID, s.Holder(seen)), !has
		})
	case driver.MarkDone:
		return a.docs.change(ctx, func(slots driver.Slots) (driver.Slots, bool) {
			return slots.Mark(seen.ID, s.Holder(seen)), true
		})
	case driver.Report:
		return a.docs.change(ctx, func(slots driver.Slots) (driver.Slots, bool) {
			return slots.Fail(seen.ID, s.Holder(seen), s.Why), true
		})
	case driver.Drain:
		return drain(ctx, a.nomad, seen.ID, s)
	case driver.EndDrain:
		return endDrain(ctx, a.nomad, seen.ID, s)
	case driver.Admit:
		return admit(ctx, a.nomad, seen.ID)
	}
	return a.change(ctx, verb, s)
}

// change executes the actions that change the host.
func (a *Agent) change(ctx context.Context, verb driver.Verb, s driver.State) error {
	p := apt{root: a.conf.Root, dir: filepath.Join(a.conf.Dir, "packages"), log: a.log}
	m, ok := driver.MakerOf(s.Plan.Vendor)
	if !ok {
		return fmt.Errorf("unknown vendor %q in the plan", s.Plan.Vendor)
	}
	k := a.kernel(m)
	switch verb {
	case driver.Fetch:
		return p.fetch(ctx, s)
	case driver.Install:
		return p.install(ctx, s.Plan)
	case driver.Restore:
		facts, err := inventory.Read(ctx, a.conf.Root, false)
		if err != nil {
			return err
		}
		return p.restore(ctx, s.From, facts.DriverPackages(s.Plan.Vendor))
	case driver.Hold:
		return p.hold(ctx, s.Plan.Vendor)
	case driver.Release:
		return k.release(ctx)
	case driver.Resume:
		return k.resume(ctx)
	case driver.LoadModule:
		return k.reload(ctx)
	case driver.BootAgain:
		return k.reboot(ctx)
	}
	return fmt.Errorf("unknown action %q", verb)
}

// look reads the present state of the machine and the cluster.
func (a *Agent) look(ctx context.Context) (seen driver.Seen, err error) {
	seen.Now, seen.ID = time.Now(), a.conf.NodeID
	if err = a.read(ctx, &seen); err != nil {
		return seen, err
	}
	n, _, err := a.nomad.Nodes().Info(a.conf.NodeID, (&nomad.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return seen, fmt.Errorf("cannot read node %s in Nomad: %w", a.conf.NodeID, err)
	}
	seen.Class, seen.Name = n.NodeClass, n.Name
	if seen.Node, err = ofNode(ctx, a.nomad, n); err != nil {
		return seen, err
	}
	if seen.Facts, err = inventory.Read(ctx, a.conf.Root, false); err != nil {
		return seen, err
	}
	a.ask(ctx, &seen)
	vendor := a.state.Plan.Vendor
	if want := seen.Wanted.For(seen.Class); vendor == "" && want != nil {
		plan, _ := driver.Make(seen.Facts, *want)
		vendor = plan.Vendor
	}
	seen.Offered = offeredBy(n, vendor)
	return seen, nil
}

// read reads the documents. It returns no error for a document that cannot be parsed, because a
// change in progress continues without it.
func (a *Agent) read(ctx context.Context, seen *driver.Seen) (err error) {
	if seen.Wanted, err = a.docs.Wanted(ctx); errors.Is(err, ErrDocument) {
		seen.Trouble = err.Error()
	} else if err != nil {
		return err
	}
	if seen.Slots, _, err = a.docs.Slots(ctx); errors.Is(err, ErrDocument) {
		seen.Trouble, seen.NoSlots = err.Error(), true
		return nil
	}
	return err
}

// ask queries the package sources if a plan may need them.
func (a *Agent) ask(ctx context.Context, seen *driver.Seen) {
	want := seen.Wanted.For(seen.Class)
	if want == nil || a.state.Phase.Begun() || a.state.Phase == driver.Failed {
		return
	}
	if plan, refusal := driver.Make(seen.Facts, *want); refusal != nil && !refusal.Sources || refusal == nil &&
		plan.Done() {
		return
	}
	if !reflect.DeepEqual(a.offers.want, *want) || seen.Now.Sub(a.offers.at) > offersTTL {
		// The old lists may already contain the wanted version.
		if _, err := a.conf.Root.Output(ctx, "apt-get", "-q", "update"); err != nil {
			a.log.Warn("cannot update the package lists, using the old ones", "error", err)
		}
		facts, err := inventory.Read(ctx, a.conf.Root, true)
		if err != nil {
			a.log.Warn("cannot read the versions that the package sources offer", "error", err)
			return
		}
		a.offers = offers{seen.Now, *want, facts.Available}
	}
	seen.Facts.Available = a.offers.versions
}

// lock prevents a second agent on the host.
func (a *Agent) lock() (unlock func(), err error) {
	dir := a.conf.Root.Path(a.conf.Dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot use the state folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot use the state folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf(
			"another agent runs on this host (%s is locked): run it either as a Nomad job or with systemd, not both",
			f.Name())
	}
	return func() { f.Close() }, nil
}

func (a *Agent) load() (s driver.State, err error) {
	text, err := os.ReadFile(a.stateFile())
	if os.IsNotExist(err) {
		return driver.State{Phase: driver.Current}, nil
	}
	if err != nil {
		return s, fmt.Errorf("cannot read the state: %w", err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("the state in %s is damaged: %w; "+
			"check the host's driver and packages, then remove the file",
			a.stateFile(), err)
	}
	return s, nil
}

func (a *Agent) stateFile() string { return filepath.Join(a.conf.Root.Path(a.conf.Dir), "state.json") }

// saveState saves a state durably if it differs from the last one.
func (a *Agent) saveState(s driver.State) error {
	if reflect.DeepEqual(s, a.state) {
		return nil
	}
	if s.Phase != a.state.Phase || s.Why != a.state.Why {
		a.log.Info("new state", "phase", string(s.Phase), "why", s.Why, "version", s.Plan.Version)
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := writeWhole(a.stateFile(), text); err != nil {
		return fmt.Errorf("cannot save the state: %w", err)
	}
	a.state = s
	return nil
}

// writeWhole replaces a file durably and atomically.
func writeWhole(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
