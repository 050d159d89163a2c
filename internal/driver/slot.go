package driver

// Begun reports whether a node in the phase has a slot for a change.
func (p Phase) Begun() bool { return p.early() || p.late() || p == Leaving }

// early reports whether nothing has changed on the node yet except its drain.
func (p Phase) early() bool { return p == InSlot || p == Draining || p == Idle }

// late reports whether the node's driver may be partly changed.
func (p Phase) late() bool {
	return p == Installing || p == Reloading || p == Rebooting || p == Verifying
}

// slot decides the step of a node whose slot an operator has freed, or that cannot read a document
// in Consul. The last result is false if neither is the case.
func slot(s State, v Seen) (State, Verb, bool) {
	_, has := v.Slots.Holders[v.ID]
	switch {
	case v.Trouble != "" && (s.Phase == Changing || s.Phase == Current || s.Phase == ""):
		s, verb := s.wait("not starting a change: %s", v.Trouble)
		return s, verb, true
	case has, v.NoSlots:
		return s, Wait, false
	case s.Phase.early():
		s, verb := s.to(Leaving, v)
		return s, verb, true
	case s.Phase.late() && s.ReleasingSlot:
		s, verb := s.to(Current, v)
		return s, verb, true
	case s.Phase.late() && !v.Now.Before(s.SlotRetry):
		// Half a driver is of no use, so the change continues. The node takes its slot again, so that no
		// other node starts.
		return s, KeepSlot, true
	}
	return s, Wait, false
}

// leaving undoes the drain of a node whose slot was freed.
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

// canary marks a canary that already has the wanted version as done, so that the other nodes can start.
func canary(s State, v Seen, plan Plan) (State, Verb) {
	s.Plan = plan
	if problem := s.problem(v); problem != "" {
		return s.wait("version %s is loaded, as wanted, but this canary is not verified yet: %s", plan.Version, problem)
	}
	return s.act(MarkDone)
}

// Holder returns the entry with which the node takes or keeps a slot.
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
