package driver

// Begun reports whether a node in the phase is on its way to another driver, by a slot.
func (p Phase) Begun() bool { return p.early() || p.late() || p == Leaving }

// early reports whether nothing was changed on the node yet but for its drain.
func (p Phase) early() bool { return p == InSlot || p == Draining || p == Idle }

// late reports whether the node's driver may be half changed.
func (p Phase) late() bool {
	return p == Installing || p == Reloading || p == Rebooting || p == Verifying
}

// slot decides what a node does whose slot somebody freed, and one that does not know what
// is wanted.
func slot(s State, v Seen) (State, Verb, bool) {
	_, has := v.Slots.Holders[v.ID]
	switch {
	case v.Trouble != "" && (s.Phase == Changing || s.Phase == Current || s.Phase == ""):
		s, verb := s.wait("nothing is begun: %s", v.Trouble)
		return s, verb, true
	case has, v.NoSlots:
		return s, Wait, false
	case s.Phase.early():
		s, verb := s.to(Leaving, v)
		return s, verb, true
	case s.Phase.late() && s.Giving:
		s, verb := s.to(Current, v)
		return s, verb, true
	case s.Phase.late() && !v.Now.Before(s.SlotRetry):
		// Half a driver serves nobody: the change goes on, and nobody else begins for it.
		return s, KeepSlot, true
	}
	return s, Wait, false
}

// leaving brings a node back to what it was before its slot was freed.
func leaving(s State, v Seen) (State, Verb) {
	switch {
	case s.Trouble != "" && v.Now.Before(s.Retry):
		return s.wait("%s", s.Trouble)
	case s.Released:
		return s.act(Resume)
	case v.Node.Draining && v.Node.Ours:
		return s.act(EndDrain)
	case s.Eligible && v.Node.Drained && v.Node.Ours:
		return s.act(Admit)
	}
	return s.to(Current, v)
}

// canary lets the others begin where a canary has the wanted version already.
func canary(s State, v Seen, plan Plan) (State, Verb) {
	s.Plan = plan
	if problem := s.problem(v); problem != "" {
		return s.wait("version %s is loaded, as wanted; as a canary the node is not done: %s", plan.Version, problem)
	}
	return s.act(MarkDone)
}

// Holder is the entry by which the node takes a slot, or keeps one.
func (s State) Holder(v Seen) Holder {
	h := s.Plan.holder(v)
	if s.Phase.Begun() || s.Phase == Failed {
		h.Eligible = s.Eligible // it may be drained now
	}
	return h
}

func (p Plan) holder(v Seen) Holder {
	return Holder{Node: v.Name, Class: v.Class, Vendor: p.Vendor, Version: p.Version, Eligible: v.Node.Eligible,
		Since: v.Now}
}
