package driver

import (
	"fmt"
	"strings"
	"time"
)

// Phase is a phase of a node's change to another driver.
type Phase string

// The phases, in order. Every phase may lead to Failed.
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
	// Leaving ends a change whose slot was freed before anything was changed.
	Leaving Phase = "leaving"
)

// State is the state of a node's change. It is written before each action, so that a later agent
// can continue, whatever has ended this one.
type State struct {
	Phase Phase `json:"phase"`
	// Why says what the node waits for, or why it failed.
	Why string `json:"why,omitempty"`
	// Plan is the change in progress, Want the wanted driver that caused it.
	Plan Plan `json:"plan"`
	Want Want `json:"want"`
	// From are the driver's packages before, FromVersion the version that was loaded.
	From        []Pin  `json:"from,omitempty"`
	FromVersion string `json:"from_version,omitempty"`
	// HealthyBefore is the number of healthy GPUs that were offered to Nomad before.
	HealthyBefore int `json:"had"`
	// Eligible is set if the node was eligible before the change.
	Eligible bool `json:"eligible"`
	// RollingBack is set if the node is returning to From, because of Cause.
	RollingBack bool   `json:"back,omitempty"`
	Cause       string `json:"cause,omitempty"`
	// LastDone is the last action that succeeded in this phase, Trouble the error of the last one if it
	// failed, Tries the number of consecutive failures.
	LastDone Verb   `json:"did,omitempty"`
	Trouble  string `json:"trouble,omitempty"`
	Tries    int    `json:"tries,omitempty"`
	// BootID is the boot ID before a reboot; Rebooted are the versions for which there was one.
	BootID   string   `json:"boot_id,omitempty"`
	Rebooted []string `json:"rebooted,omitempty"`
	// Released is set while the driver's services are stopped; Unharmed if a failure happened before
	// anything was changed.
	Released bool `json:"released,omitempty"`
	Unharmed bool `json:"unharmed,omitempty"`
	// Lost is set if the state of the change was lost, so that a rollback is not possible.
	Lost bool `json:"lost,omitempty"`
	// ReleasingSlot is set while the verified node releases its slot.
	ReleasingSlot bool `json:"giving,omitempty"`
	// SlotRetry is when the node may next try to take its freed slot again.
	SlotRetry time.Time `json:"slot_retry"`
	// Since is when the phase began, Retry when an action may be tried again.
	Since time.Time `json:"since"`
	Retry time.Time `json:"retry"`
}

// Verb is an action of the agent.
type Verb string

// The actions. Each checks the machine first, so it can be repeated.
const (
	Wait       Verb = ""           // check again later
	TakeSlot   Verb = "take-slot"  // add the node to the holders
	Fetch      Verb = "fetch"      // download the packages, and the present ones for a rollback
	Drain      Verb = "drain"      // make Nomad move the node's tasks
	Release    Verb = "release"    // stop the driver's services that have the device open
	Install    Verb = "install"    // install Plan.Install
	Restore    Verb = "restore"    // install State.From again
	LoadModule Verb = "reload"     // unload the modules and load those on disk
	BootAgain  Verb = "reboot"     // reboot the machine
	Resume     Verb = "resume"     // start the services that Release has stopped
	Hold       Verb = "hold"       // exclude the driver's packages from upgrades
	Admit      Verb = "admit"      // make the node eligible
	GiveSlot   Verb = "give-slot"  // remove the node from the holders
	KeepSlot   Verb = "keep-slot"  // add the node to the holders again, even if no slot is free
	MarkDone   Verb = "mark-done"  // add the node to those that have the wanted version
	EndDrain   Verb = "end-drain"  // end the node's drain; make it eligible if it was before
	Report     Verb = "report"     // mark the node as failed among the holders
	Again      Verb = "step-again" // nothing; take the next step at once
)

// Seen is the state of the machine and the cluster at the time of a step.
type Seen struct {
	Now    time.Time
	Facts  Facts
	Wanted Wanted
	// Class is Nomad's node class, ID and Name the node's.
	Class, ID, Name string
	Slots           Slots
	// Trouble says which document in Consul cannot be parsed, "" if all can; NoSlots is set if it is
	// that of the slots.
	Trouble string
	NoSlots bool
	Node    Node
	// Offered is what our plugin offers to Nomad of the vendor's GPUs.
	Offered Offered
}

// Node is the node's state in Nomad.
type Node struct {
	Ready    bool
	Eligible bool
	// Draining is set during a drain, Ours if this program requested the present or last drain. Ended
	// is set if somebody has cancelled the last drain.
	Draining, Ours, Ended bool
	// Drained is set if the last drain is complete and the node has been ineligible since.
	Drained bool
	// Left are the allocations that still run, without those of system jobs.
	Left []string
}

// others reports whether somebody else has drained the node.
func (n Node) others() bool {
	return !n.Ours && !n.Eligible && (n.Draining || n.Drained || n.Ended)
}

// Offered is the state of a vendor's GPUs that the device plugin reports to Nomad.
type Offered struct {
	// GPUs is the number of physical GPUs whose instances are all healthy.
	GPUs int
	// Versions are the driver's, as the plugin sees them.
	Versions []string
	// Sick are the reasons of unhealthy instances.
	Sick []string
}

const (
	retryAfter    = time.Minute
	maxTries      = 3
	verifyTimeout = 10 * time.Minute
	quitTimeout   = time.Minute
)

// Step decides the next action of a node. It returns the state that must be saved before the action.
func Step(s State, v Seen) (State, Verb) {
	if next, verb, decided := slot(s, v); decided {
		return next, verb
	}
	if step, known := steps[s.Phase]; known {
		return step(s, v)
	}
	return current(s, v)
}

// steps has the function that decides in each phase.
var steps = map[Phase]func(State, Seen) (State, Verb){
	Current: current, Changing: wanted, InSlot: inSlot, Draining: draining, Idle: idle, Installing: installing,
	Reloading: reloading, Rebooting: rebooting, Verifying: verifying, Failed: failed, Leaving: leaving,
}

// did returns the state after a successful action.
func (s State) did(v Verb) State {
	s.LastDone, s.Trouble, s.Tries = v, "", 0
	switch v {
	case Release:
		s.Released = true
	case Resume:
		s.Released = false
	}
	return s
}

// After returns the state after an action with its error.
func (s State) After(v Verb, err error, now time.Time) State {
	if v == Wait || v == Again {
		return s
	}
	if v == KeepSlot {
		// KeepSlot does not affect the phase's own actions.
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

// Restarted returns the state with which a new agent continues. The machine may have been down for
// long, and its clock may have changed. So time limits start again, and nothing waits for a time
// far in the future.
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

// to starts another phase.
func (s State) to(p Phase, v Seen) (State, Verb) {
	s.Phase, s.Why, s.LastDone, s.Trouble, s.Tries, s.Since, s.Retry = p, "", "", "", 0, v.Now, time.Time{}
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

// fail stops the change. why starts with what is most important for the operator.
func (s State) fail(v Seen, why string) (State, Verb) {
	s, _ = s.to(Failed, v)
	s.Why = why
	return s, Again
}

// giveUp is like fail, before anything was changed.
func (s State) giveUp(v Seen, why string) (State, Verb) {
	s.Unharmed = true
	return s.fail(v, why+"; nothing was changed")
}

// current checks whether another driver is wanted.
func current(s State, v Seen) (State, Verb) {
	trouble, retry, tries := s.Trouble, s.Retry, s.Tries
	s = State{Phase: Current, Since: s.Since, Trouble: trouble, Retry: retry, Tries: tries}
	want := v.Wanted.For(v.Class)
	if want == nil {
		return s.wait("there is no wanted version for nodes of class %q", v.Class)
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
		// An earlier agent did not complete its change, and its state is lost. Start the services
		// that it may have stopped, and verify the node before it takes tasks.
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
		return s.wait("this node failed before: %s; free its slot to let it try again", held.Failed)
	case has:
		s.From, s.FromVersion = pins(v.Facts.DriverPackages(plan.Vendor)), v.Facts.Drivers[plan.Vendor].Loaded
		s.HealthyBefore = v.Offered.GPUs
		s.Eligible = held.Eligible
		return s.to(InSlot, v)
	case !v.Node.Ready:
		return s.wait("the node is not ready in Nomad")
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

// inSlot downloads all packages while the node is still in service.
func inSlot(s State, v Seen) (State, Verb) {
	switch {
	case s.LastDone == Fetch || len(s.Plan.Install) == 0:
		return s.to(Draining, v)
	case s.Tries >= maxTries:
		return s.giveUp(v, s.Trouble)
	case s.Trouble != "" && v.Now.Before(s.Retry):
		return s.wait("try %d of %d: %s", s.Tries, maxTries, s.Trouble)
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
	case s.LastDone == Drain && v.Node.Ended:
		return s.giveUp(v, "somebody ended the drain")
	case s.LastDone == Drain && v.Node.Eligible:
		return s.act(Drain) // somebody has made the node eligible again
	case s.LastDone == Drain:
		return s.wait("%d allocations are left: %s", len(v.Node.Left), short(v.Node.Left))
	case s.Tries >= maxTries:
		return s.giveUp(v, s.Trouble)
	case s.Trouble != "" && v.Now.Before(s.Retry):
		return s.wait("%s", s.Trouble)
	}
	return s.act(Drain)
}

// drainedByOthers returns that somebody else has drained the node, or "" if nobody has.
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

// idle waits until no process has the device open. It ends no process for that.
func idle(s State, v Seen) (State, Verb) {
	var others, ours []string
	for _, p := range v.Facts.Holders {
		switch {
		case p.Vendor != s.Plan.Vendor:
		case p.Display:
			return s.giveUp(v, p.String()+" uses a GPU for a display")
		case p.Ours:
			ours = append(ours, p.String())
		default:
			others = append(others, p.String())
		}
	}
	switch {
	case v.Node.Eligible:
		return s.to(Draining, v) // somebody has made the node eligible again
	case v.Node.others():
		return s.wait("somebody else drained the node; it is left alone until it is eligible again")
	case len(others) > 0:
		return s.wait("%s is in use by %s", s.Plan.Vendor, short(others))
	case s.Plan.Apply != Reload || s.LastDone == Release && len(ours) == 0:
		return s.to(Installing, v)
	case s.LastDone == Release && v.Now.Before(s.Since.Add(quitTimeout)):
		return s.wait("%s still has the device open", short(ours))
	case s.LastDone == Release, s.Tries >= maxTries:
		// A reload would fail. A reboot ends these processes in order.
		s.Plan.Apply = Reboot
		return s.to(Installing, v)
	}
	return s.act(Release)
}
