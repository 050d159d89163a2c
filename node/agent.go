// Package node brings a node to the driver that is wanted of it: it asks Nomad to move
// the tasks, installs packages, loads the driver or reboots, and gives the node back when
// the device plugin finds its GPUs well. What to do next is decided by internal/driver;
// this package looks and acts.
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

// Config says where an agent works.
type Config struct {
	// Root is the root of the host whose driver is looked after.
	Root host.Root
	// Dir is where the agent keeps its state and packages, below the root.
	Dir string
	// RunDir is that of the device plugins, below the root.
	RunDir string
	// Prefix is that of the documents in Consul KV.
	Prefix string
	// NodeID is Nomad's ID of the node; "" asks the agent that Nomad names.
	NodeID string
	// Interval is how long the agent waits between two looks.
	Interval time.Duration
}

// Agent looks after the driver of one node.
type Agent struct {
	conf  Config
	nomad *nomad.Client
	docs  Documents
	log   *slog.Logger

	state     driver.State
	published []byte
	offers    offers
}

// offers are what the host's package sources offered when they were asked last.
type offers struct {
	at       time.Time
	want     driver.Want
	versions map[string][]string
}

// sourcesAge is how long an answer of the package sources counts.
const sourcesAge = 10 * time.Minute

// New makes an agent.
func New(conf Config, n *nomad.Client, c *consul.Client, log *slog.Logger) *Agent {
	return &Agent{conf: conf, nomad: n, docs: Documents{c.KV(), conf.Prefix}, log: log}
}

// Run works until the context ends. What is being done to the host then is done to its
// end first.
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
	a.log.Info("looking after the driver", "node", a.conf.NodeID, "phase", a.state.Phase)
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
			a.log.Warn("asking again: " + text)
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

// begin goes on where an agent before this one was.
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

// giveBack lets the device plugin go on, and services with it, where no change goes on that
// stopped it. An agent that ended between what it did and what it kept, or whose state was
// lost, leaves the marker behind, and no step would take it away.
func (a *Agent) giveBack(ctx context.Context) {
	k := a.kernel(driver.Maker{})
	if a.state.Phase.Begun() || !k.root.Exists(k.marker) {
		return
	}
	a.log.Warn("the device plugin was stopped for a change that is over: it goes on", "file", k.root.Path(k.marker))
	ctx, cancel := within(context.WithoutCancel(ctx), hostLimit)
	defer cancel()
	if err := k.resume(ctx); err != nil {
		a.log.Warn("what was stopped for a change does not go on", "error", err)
	}
}

// kernel is the host's, for the driver of a maker.
func (a *Agent) kernel(m driver.Maker) kernel {
	return kernel{root: a.conf.Root, maker: m, marker: filepath.Join(a.conf.RunDir, host.DriverChange),
		stopped: filepath.Join(a.conf.Dir, "stopped")}
}

// step looks, decides and acts once. Its error is that of a look: nothing is done on
// what is not known.
func (a *Agent) step(ctx context.Context) (driver.Verb, error) {
	looking, cancel := within(ctx, lookLimit)
	defer cancel()
	seen, err := a.look(looking)
	if err != nil {
		return driver.Wait, err
	}
	state, verb := driver.Step(a.state, seen)
	if err := a.keep(state); err != nil {
		return driver.Wait, err
	}
	a.giveBack(ctx)
	a.publish(ctx, seen, "")
	if verb == driver.Wait || verb == driver.Again {
		return verb, nil
	}
	a.log.Info("doing", "action", string(verb), "phase", string(state.Phase), "version", state.Plan.Version)
	// Half an installation is worse than a late end.
	doing, cancel := within(context.WithoutCancel(ctx), limit(verb))
	defer cancel()
	err = a.watched(ctx, verb, seen, func() error { return a.do(doing, verb, seen) })
	if err != nil {
		a.log.Error("action failed", "action", string(verb), "error", err)
	}
	return driver.Again, a.keep(a.state.After(verb, err, time.Now()))
}

// Limits of what may hang without an end: a mirror, Nomad, Consul, a program of the host. A
// look has that of the package lists. That of packages is many times what DKMS takes to
// compile modules on a slow machine: half an installation is worse than a late one, but one
// that never ends keeps the node and its slot.
const (
	lookLimit    = 10 * time.Minute
	fetchLimit   = 2 * time.Hour
	packageLimit = 2 * time.Hour
	hostLimit    = 10 * time.Minute
	askLimit     = time.Minute
	// slow is when the node's report begins to say that an action takes long.
	slow = 5 * time.Minute
)

// limit is how long an action may take.
func limit(v driver.Verb) time.Duration {
	switch v {
	case driver.Fetch:
		return fetchLimit
	case driver.Install, driver.Restore:
		return packageLimit
	case driver.Hold, driver.Release, driver.Resume, driver.LoadModule, driver.BootAgain:
		return hostLimit
	}
	return askLimit
}

func within(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than %s", limit))
}

// watched does something. When it takes long, the node's report says so: nobody would know
// else that a program hangs.
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

// takesLong says what an action that goes on means.
func takesLong(verb driver.Verb, since time.Duration) string {
	taken := since.Round(time.Minute)
	if most := limit(verb); since <= most {
		return fmt.Sprintf("%s has taken %s, and is ended after %s", verb, taken, most)
	}
	return fmt.Sprintf("%s has taken %s and cannot be ended: a program hangs in the kernel; look at the host",
		verb, taken)
}

// do does what was decided.
func (a *Agent) do(ctx context.Context, verb driver.Verb, seen driver.Seen) error {
	s := a.state
	switch verb {
	case driver.TakeSlot:
		return a.docs.change(ctx, func(slots driver.Slots) (driver.Slots, bool) {
			if slots.May(seen.ID, s.Holder(seen), seen.Wanted, s.Want) != "" {
				return slots, false // somebody was faster; the next look says who
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

// change does what changes the host.
func (a *Agent) change(ctx context.Context, verb driver.Verb, s driver.State) error {
	p := apt{root: a.conf.Root, dir: filepath.Join(a.conf.Dir, "packages"), log: a.log}
	m, ok := driver.MakerOf(s.Plan.Vendor)
	if !ok {
		return fmt.Errorf("there is no driver of %q", s.Plan.Vendor)
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
	return fmt.Errorf("there is no action %q", verb)
}

// look reads what the machine and the cluster say now.
func (a *Agent) look(ctx context.Context) (seen driver.Seen, err error) {
	seen.Now, seen.ID = time.Now(), a.conf.NodeID
	if err = a.read(ctx, &seen); err != nil {
		return seen, err
	}
	n, _, err := a.nomad.Nodes().Info(a.conf.NodeID, (&nomad.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return seen, fmt.Errorf("node %s in Nomad: %w", a.conf.NodeID, err)
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

// read reads the documents. A change that has begun goes on without one that cannot be
// understood.
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

// ask asks the package sources where a plan may need them.
func (a *Agent) ask(ctx context.Context, seen *driver.Seen) {
	want := seen.Wanted.For(seen.Class)
	if want == nil || a.state.Phase.Begun() || a.state.Phase == driver.Failed {
		return
	}
	if plan, refusal := driver.Make(seen.Facts, *want); refusal != nil && !refusal.Sources || refusal == nil &&
		plan.Done() {
		return
	}
	if !reflect.DeepEqual(a.offers.want, *want) || seen.Now.Sub(a.offers.at) > sourcesAge {
		// Lists that cannot be updated may still have what is wanted.
		if _, err := a.conf.Root.Output(ctx, "apt-get", "-q", "update"); err != nil {
			a.log.Warn("package lists could not be updated", "error", err)
		}
		facts, err := inventory.Read(ctx, a.conf.Root, true)
		if err != nil {
			a.log.Warn("package sources could not be asked", "error", err)
			return
		}
		a.offers = offers{seen.Now, *want, facts.Available}
	}
	seen.Facts.Available = a.offers.versions
}

// lock keeps a second agent from the host.
func (a *Agent) lock() (unlock func(), err error) {
	dir := a.conf.Root.Path(a.conf.Dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the state's folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the state's folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf(
			"another agent works on this host (%s is locked): run it by Nomad's job or by systemd, not by both",
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
		return s, fmt.Errorf("the state: %w", err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("the state in %s is damaged: %w; look at the host, then remove the file",
			a.stateFile(), err)
	}
	return s, nil
}

func (a *Agent) stateFile() string { return filepath.Join(a.conf.Root.Path(a.conf.Dir), "state.json") }

// keep writes a state so that it is there after a crash, if it is another one.
func (a *Agent) keep(s driver.State) error {
	if reflect.DeepEqual(s, a.state) {
		return nil
	}
	if s.Phase != a.state.Phase || s.Why != a.state.Why {
		a.log.Info("state", "phase", string(s.Phase), "why", s.Why, "version", s.Plan.Version)
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := writeWhole(a.stateFile(), text); err != nil {
		return fmt.Errorf("the state: %w", err)
	}
	a.state = s
	return nil
}

// writeWhole replaces a file, so that at any moment the old or the new one is on disk.
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
