package driver

import (
	"fmt"
	"strings"
	"time"
)

// Phase is where a node is on its way to another driver.
type Phase string

// The phases, in order. From every one of them a node may come to Failed.
const (
	Current    Phase = "current"
	Changing   Phase = "wanted"
	InSlot     Phase = "slot"
	Draining   Phase = "draining"
	Idle       Phase = "idle"
	Installing Phase = "installing"
	Reloading  Phase = "reloading"
	Rebooting  Phase = "rebooting"
	Verifying  Phase = "verifying"
	Failed     Phase = "failed"
	// Leaving is the way out of a change whose slot was freed before anything was changed.
	Leaving Phase = "leaving"
)

// State is what a node keeps of its way. It is written before each action, so that
// whatever ends the agent, the next one goes on from there.
type State struct {
	Phase Phase `json:"phase"`
	// Why says what the node waits for, or why it failed.
	Why string `json:"why,omitempty"`
	// Plan is what is being done; Class and Canary are of the want behind it.
	Plan Plan `json:"plan"`
	Want Want `json:"want"`
	// From are the driver's packages before, FromVersion the version that was loaded.
	From        []Pin  `json:"from,omitempty"`
	FromVersion string `json:"from_version,omitempty"`
	// Had counts the GPUs that Nomad was offered before, all healthy.
	Had int `json:"had"`
	// Eligible tells that the node took tasks before.
	Eligible bool `json:"eligible"`
	// Back tells that the node is on its way back to From, because of Cause.
	Back  bool   `json:"back,omitempty"`
	Cause string `json:"cause,omitempty"`
	// Did is the last action that succeeded in this phase, Trouble the error of the last
	// one that did not, Tries how many failed in a row.
	Did     Verb   `json:"did,omitempty"`
	Trouble string `json:"trouble,omitempty"`
	Tries   int    `json:"tries,omitempty"`
	// BootID is that of the boot in which a reboot was decided; Rebooted are the versions
	// for which there was one.
	BootID   string   `json:"boot_id,omitempty"`
	Rebooted []string `json:"rebooted,omitempty"`
	// Released tells that what belongs to the driver was stopped; Unharmed that a failure
	// came before anything was changed.
	Released bool `json:"released,omitempty"`
	Unharmed bool `json:"unharmed,omitempty"`
	// Lost tells that the state of the walk was lost, so that there is no way back.
	Lost bool `json:"lost,omitempty"`
	// Giving tells that the node was found well, and gives its slot back.
	Giving bool `json:"giving,omitempty"`
	// SlotRetry is when the node may try again to take back a slot that was freed.
	SlotRetry time.Time `json:"slot_retry"`
	// Since is when the phase began, Retry when an action may be tried again.
	Since time.Time `json:"since"`
	Retry time.Time `json:"retry"`
}

// Verb is what the agent is to do.
type Verb string

// The actions. Each looks at the machine first, so that it may be repeated.
const (
	Wait       Verb = ""           // look again later
	TakeSlot   Verb = "take-slot"  // add the node to the holders
	Fetch      Verb = "fetch"      // download packages, and those to go back to
	Drain      Verb = "drain"      // ask Nomad to move the node's tasks
	Release    Verb = "release"    // stop what belongs to the driver and has the device open
	Install    Verb = "install"    // install Plan.Install
	Restore    Verb = "restore"    // install State.From again
	LoadModule Verb = "reload"     // take the modules out and load those on disk
	BootAgain  Verb = "reboot"     // reboot the machine
	Resume     Verb = "resume"     // start again what Release stopped
	Hold       Verb = "hold"       // keep upgrades from the driver's packages
	Admit      Verb = "admit"      // let the node take tasks
	GiveSlot   Verb = "give-slot"  // take the node from the holders
	KeepSlot   Verb = "keep-slot"  // add the node to the holders again, whatever else holds a slot
	MarkDone   Verb = "mark-done"  // add the node to those that have the wanted version
	EndDrain   Verb = "end-drain"  // end the node's drain; let it take tasks if it did before
	Report     Verb = "report"     // mark the node as failed among the holders
	Again      Verb = "step-again" // nothing: the next step follows at once
)

// Seen is what the machine and the cluster say at the moment of a step.
type Seen struct {
	Now    time.Time
	Facts  Facts
	Wanted Wanted
	// Class is Nomad's node class, ID and Name the node's.
	Class, ID, Name string
	Slots           Slots
	// Trouble says which document in Consul cannot be understood, "" where both can;
	// NoSlots tells that it is that of the slots.
	Trouble string
	NoSlots bool
	Node    Node
	// Offered is what Nomad is offered of the vendor's GPUs by our plugin.
	Offered Offered
}

// Node is what Nomad says of the node.
type Node struct {
	Ready    bool
	Eligible bool
	// Draining is a drain that goes on, and Ours tells that it, or the one before, was
	// asked by this program. Ended tells that the last one was ended by somebody.
	Draining, Ours, Ended bool
	// Drained tells that the last drain came to its end, and the node is ineligible since.
	Drained bool
	// Left are the allocations that still run, but those of system jobs.
	Left []string
}

// others reports whether somebody else keeps tasks from the node by a drain.
func (n Node) others() bool {
	return !n.Ours && !n.Eligible && (n.Draining || n.Drained || n.Ended)
}

// Offered is what the device plugin says of a vendor's GPUs by Nomad.
type Offered struct {
	// GPUs counts the physical GPUs all of whose instances are healthy.
	GPUs int
	// Versions are the driver's, as the plugin sees them.
	Versions []string
	// Sick are the reasons of unhealthy instances.
	Sick []string
}

const (
	retryAfter  = time.Minute
	mostTries   = 3
	verifyLimit = 10 * time.Minute
	quitLimit   = time.Minute
)

// Step decides what a node does next. It returns the state to keep before the action is
// done.
func Step(s State, v Seen) (State, Verb) {
	if next, verb, decided := slot(s, v); decided {
		return next, verb
	}
	if step, known := steps[s.Phase]; known {
		return step(s, v)
	}
	return current(s, v)
}

// steps are what a node does in each phase.
var steps = map[Phase]func(State, Seen) (State, Verb){
	Current: current, Changing: wanted, InSlot: inSlot, Draining: draining, Idle: idle, Installing: installing,
	Reloading: reloading, Rebooting: rebooting, Verifying: verifying, Failed: failed, Leaving: leaving,
}

// Did returns the state after an action succeeded.
func (s State) did(v Verb) State {
	s.Did, s.Trouble, s.Tries = v, "", 0
	switch v {
	case Release:
		s.Released = true
	case Resume:
		s.Released = false
	}
	return s
}

// After returns the state after an action was tried.
func (s State) After(v Verb, err error, now time.Time) State {
	if v == Wait || v == Again {
		return s
	}
	if v == KeepSlot {
		// What the phase did counts on.
		s.SlotRetry = time.Time{}
		if err != nil {
			s.SlotRetry = now.Add(retryAfter)
		}
		return s
	}
	if err == nil {
		return s.did(v)
	}
	s.Trouble = strings.Join(strings.Fields(err.Error()), " ")
	s.Tries++
	s.Retry = now.Add(retryAfter)
	return s
}

// Restarted returns the state with which an agent goes on that was just started. The
// machine may have been away for long, and its clock may have been set: what has a limit
// gets its whole time again, and nothing waits for a moment that may never come.
func (s State) Restarted(now time.Time) State {
	if s.Phase == Idle || s.Phase == Verifying {
		s.Since = now
	}
	for _, t := range []*time.Time{&s.Retry, &s.SlotRetry} {
		if t.After(now.Add(retryAfter)) {
			*t = now
		}
	}
	return s
}

// to begins another phase.
func (s State) to(p Phase, v Seen) (State, Verb) {
	s.Phase, s.Why, s.Did, s.Trouble, s.Tries, s.Since, s.Retry = p, "", "", "", 0, v.Now, time.Time{}
	return s, Again
}

func (s State) wait(format string, values ...any) (State, Verb) {
	s.Why = fmt.Sprintf(format, values...)
	return s, Wait
}

func (s State) act(v Verb) (State, Verb) {
	s.Why = ""
	return s, v
}

// fail stops the node. What it says first is what a reader needs first.
func (s State) fail(v Seen, why string) (State, Verb) {
	s, _ = s.to(Failed, v)
	s.Why = why
	return s, Again
}

// giveUp is fail where nothing was changed yet.
func (s State) giveUp(v Seen, why string) (State, Verb) {
	s.Unharmed = true
	return s.fail(v, why+"; nothing was changed")
}

// current looks whether another driver is wanted.
func current(s State, v Seen) (State, Verb) {
	trouble, retry, tries := s.Trouble, s.Retry, s.Tries
	s = State{Phase: Current, Since: s.Since, Trouble: trouble, Retry: retry, Tries: tries}
	want := v.Wanted.For(v.Class)
	if want == nil {
		return s.wait("no version is wanted of nodes of class %q", v.Class)
	}
	plan, refusal := Make(v.Facts, *want)
	if refusal != nil {
		return s.wait("refused: %s", refusal.Error())
	}
	held, has := v.Slots.Holders[v.ID]
	switch {
	case !plan.Done():
		s.Plan, s.Want = plan, *want
		return s.to(Changing, v)
	case trouble != "" && v.Now.Before(retry):
		return s.wait("version %s is loaded; %s", plan.Version, trouble)
	case len(plan.Hold) > 0:
		s.Plan = plan
		return s.act(Hold)
	case has && held.Failed == "":
		// An agent before this one did not come to its end, and its state is lost: what it
		// may have stopped is started, and the node is verified before it takes tasks.
		s.Plan, s.Want, s.Eligible, s.Lost, s.Released = plan, *want, held.Eligible, true, true
		return s.to(Verifying, v)
	case !has && v.Slots.waitFor(plan.holder(v), *want, v.ID):
		return canary(s, v, plan)
	}
	return s.wait("version %s is loaded, as wanted", plan.Version)
}

// wanted waits for the node's turn.
func wanted(s State, v Seen) (State, Verb) {
	want := v.Wanted.For(v.Class)
	if want == nil {
		return s.to(Current, v)
	}
	plan, refusal := Make(v.Facts, *want)
	if refusal != nil || plan.Done() {
		return s.to(Current, v)
	}
	s.Plan, s.Want = plan, *want
	held, has := v.Slots.Holders[v.ID]
	switch why := v.Slots.May(v.ID, plan.holder(v), v.Wanted, *want); {
	case has && held.Failed != "":
		return s.wait("this node failed before: %s; free its slot by hand to let it try again", held.Failed)
	case has:
		s.From, s.FromVersion, s.Had = pins(v.Facts.DriverPackages(plan.Vendor)), v.Facts.Drivers[plan.Vendor].Loaded,
			v.Offered.GPUs
		s.Eligible = held.Eligible
		return s.to(InSlot, v)
	case !v.Node.Ready:
		return s.wait("Nomad does not call the node ready")
	case v.Node.Draining && !v.Node.Ours, v.Node.Drained && !v.Node.Ours:
		return s.wait("somebody else drained the node; it is left alone until it is eligible again")
	case why != "":
		return s.wait("%s", why)
	case v.Now.Before(s.Retry):
		return s.wait("%s", s.Trouble)
	}
	return s.act(TakeSlot)
}

func pins(packages []Package) (out []Pin) {
	for _, p := range packages {
		out = append(out, Pin{p.Name, p.Version})
	}
	return out
}

// inSlot brings all packages to the node while it still serves.
func inSlot(s State, v Seen) (State, Verb) {
	switch {
	case s.Did == Fetch || len(s.Plan.Install) == 0:
		return s.to(Draining, v)
	case s.Tries >= mostTries:
		return s.giveUp(v, s.Trouble)
	case s.Trouble != "" && v.Now.Before(s.Retry):
		return s.wait("try %d of %d: %s", s.Tries, mostTries, s.Trouble)
	}
	return s.act(Fetch)
}

// draining waits until the node's tasks have moved.
func draining(s State, v Seen) (State, Verb) {
	if who := v.Node.drainedByOthers(); who != "" {
		return s.wait("%s", who)
	}
	switch {
	case v.Node.Draining:
		return s.wait("%d allocations are left: %s", len(v.Node.Left), short(v.Node.Left))
	case v.Node.Drained && !v.Node.Eligible && len(v.Node.Left) == 0:
		return s.to(Idle, v)
	case s.Did == Drain && v.Node.Ended:
		return s.giveUp(v, "somebody ended the drain")
	case s.Did == Drain && v.Node.Eligible:
		return s.act(Drain) // somebody let tasks in again
	case s.Did == Drain:
		return s.wait("%d allocations are left: %s", len(v.Node.Left), short(v.Node.Left))
	case s.Tries >= mostTries:
		return s.giveUp(v, s.Trouble)
	case s.Trouble != "" && v.Now.Before(s.Retry):
		return s.wait("%s", s.Trouble)
	}
	return s.act(Drain)
}

// drainedByOthers says how somebody else keeps tasks from the node, "" where nobody does.
func (n Node) drainedByOthers() string {
	switch {
	case n.Ours:
		return ""
	case n.Draining:
		return "somebody else drains the node"
	case n.Drained:
		return "somebody else drained the node; it is left alone until it is eligible again"
	}
	return ""
}

func short(names []string) string {
	const most = 3
	if len(names) > most {
		return strings.Join(names[:most], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

// idle waits until nobody has the device open. Nobody is ended for it.
func idle(s State, v Seen) (State, Verb) {
	var others, ours []string
	for _, p := range v.Facts.Holders {
		switch {
		case p.Vendor != s.Plan.Vendor:
		case p.Display:
			return s.giveUp(v, "a screen is drawn by "+p.String())
		case p.Ours:
			ours = append(ours, p.String())
		default:
			others = append(others, p.String())
		}
	}
	switch {
	case v.Node.Eligible:
		return s.to(Draining, v) // somebody let tasks in again
	case v.Node.others():
		return s.wait("somebody else drained the node; it is left alone until it is eligible again")
	case len(others) > 0:
		return s.wait("%s is in use by %s", s.Plan.Vendor, short(others))
	case s.Plan.Apply != Reload || s.Did == Release && len(ours) == 0:
		return s.to(Installing, v)
	case s.Did == Release && v.Now.Before(s.Since.Add(quitLimit)):
		return s.wait("%s still has the device open", short(ours))
	case s.Did == Release, s.Tries >= mostTries:
		// The reload has no chance; the reboot ends them in order.
		s.Plan.Apply = Reboot
		return s.to(Installing, v)
	}
	return s.act(Release)
}
