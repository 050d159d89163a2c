package driver

import (
	"fmt"
	"slices"
)

// installing installs the planned packages, or the former ones again.
func installing(s State, v Seen) (State, Verb) {
	switch {
	case s.Trouble != "" && s.RollingBack:
		return s.fail(v, s.Cause+"; also, the former packages could not be installed again: "+s.Trouble+
			"; the node stays ineligible")
	case s.Trouble != "":
		return s.rollBack(v, s.Trouble)
	case !s.RollingBack && len(s.Plan.Install)+len(s.Plan.Remove) == 0:
	case !s.RollingBack && !whole(v.Facts, s.Plan):
		if s.LastDone == Install {
			return s.rollBack(v, "after the installation some packages differ from the plan")
		}
		return s.act(Install)
	case s.RollingBack && !restored(v.Facts, s):
		if s.LastDone == Restore {
			return s.fail(v, s.Cause+"; also, some of the former packages are still missing; the node stays ineligible")
		}
		return s.act(Restore)
	}
	return s.load(v)
}

// load decides how to get the installed module into the kernel.
func (s State) load(v Seen) (State, Verb) {
	d, target := v.Facts.Drivers[s.Plan.Vendor], s.target()
	switch {
	case s.RollingBack && target == "":
		return s.fail(v, s.Cause+
			"; its packages were removed, so the node has no driver, as before the change; the node stays ineligible")
	case s.inForce(d):
		return s.to(Verifying, v)
	case d.OnDisk != "" && d.OnDisk != target && target != InTree:
		why := fmt.Sprintf("the module on disk is %s and not %s", d.OnDisk, target)
		if s.RollingBack {
			return s.fail(v, s.Cause+"; and "+why+"; the node stays ineligible")
		}
		return s.rollBack(v, why)
	case s.Plan.Apply == Reload:
		return s.to(Reloading, v)
	}
	return s.reboot(v)
}

// inForce reports whether the loaded module is the target.
func (s State) inForce(d Installed) bool {
	kind := s.RollingBack || s.Plan.Modules == "" || d.Modules == "" || d.Modules == s.Plan.Modules
	return d.Loaded == s.target() && kind
}

// target returns the version that the node shall have: the planned one or, on the way back, the
// former one.
func (s State) target() string {
	if s.RollingBack {
		return s.FromVersion
	}
	return s.Plan.Version
}

// rollBack starts the return to the former packages, because of why.
func (s State) rollBack(v Seen, why string) (State, Verb) {
	s, again := s.to(Installing, v)
	s.RollingBack, s.Cause, s.ReleasingSlot = true, why, false
	return s, again
}

// whole reports whether the packages are as planned, and none is broken.
func whole(f Facts, p Plan) bool {
	for _, want := range p.Install {
		if !slices.ContainsFunc(f.Packages, func(h Package) bool {
			return h.Name == want.Name && (h.Version == want.Version || want.Version == "") && h.Broken == ""
		}) {
			return false
		}
	}
	for _, name := range p.Remove {
		if f.installed(name) {
			return false
		}
	}
	return !slices.ContainsFunc(f.Packages, func(h Package) bool { return h.Broken != "" })
}

// restored reports whether the driver's packages are the same as before the change.
func restored(f Facts, s State) bool {
	now := f.DriverPackages(s.Plan.Vendor)
	if slices.ContainsFunc(f.Packages, func(h Package) bool { return h.Broken != "" }) {
		return false
	}
	same := func(a Package, b Pin) bool { return a.Name == b.Name && a.Version == b.Version }
	for _, p := range s.From {
		if !slices.ContainsFunc(now, func(h Package) bool { return same(h, p) }) {
			return false
		}
	}
	return !slices.ContainsFunc(now, func(h Package) bool {
		return !slices.ContainsFunc(s.From, func(p Pin) bool { return same(h, p) })
	})
}

// reloading loads the module on disk. If the old module cannot be unloaded, the node reboots.
func reloading(s State, v Seen) (State, Verb) {
	switch d := v.Facts.Drivers[s.Plan.Vendor]; {
	case s.inForce(d):
		return s.to(Verifying, v)
	case s.Trouble != "", s.LastDone == LoadModule:
		return s.reboot(v)
	}
	return s.act(LoadModule)
}

// reboot starts a reboot. There is at most one for each version.
func (s State) reboot(v Seen) (State, Verb) {
	target := s.target()
	if slices.Contains(s.Rebooted, target) {
		if s.RollingBack {
			return s.fail(v, s.Cause+"; and after a reboot version "+target+" is not loaded; the node stays ineligible")
		}
		return s.rollBack(v, "after a reboot version "+target+" is not loaded")
	}
	s, again := s.to(Rebooting, v)
	s.Rebooted, s.BootID = append(slices.Clone(s.Rebooted), target), v.Facts.BootID
	return s, again
}

// rebooting requests the reboot until the boot ID has changed.
func rebooting(s State, v Seen) (State, Verb) {
	switch {
	case v.Facts.BootID != s.BootID:
		return s.to(Verifying, v)
	case s.LastDone == BootAgain:
		return s.wait("the machine is rebooting")
	case s.Trouble != "" && v.Now.Before(s.Retry):
		return s.wait("%s", s.Trouble)
	}
	return s.act(BootAgain)
}

// verifying waits until the device plugin reports, through Nomad, that all GPUs are healthy.
func verifying(s State, v Seen) (State, Verb) {
	problem := s.problem(v)
	if problem == "" && s.Released {
		problem = s.Trouble // a service of the driver does not start
	}
	switch {
	case s.Released && !v.Now.Before(s.Retry):
		return s.act(Resume)
	case problem != "" && v.Now.Before(s.Since.Add(verifyTimeout)):
		return s.wait("%s", problem)
	case problem != "" && s.RollingBack:
		return s.fail(v, s.Cause+"; and with the former packages: "+problem+"; the node stays ineligible")
	case problem != "" && s.Lost:
		return s.fail(v,
			fmt.Sprintf("after %s: %s; the former packages are unknown, because the agent's state was lost; "+
				"the node stays ineligible", verifyTimeout, problem))
	case problem != "":
		s.Plan.Apply = Reboot // the services that were stopped for a reload are running again
		return s.rollBack(v, fmt.Sprintf("after %s: %s", verifyTimeout, problem))
	}
	return s.finish(v)
}

// problem returns why the node is not verified yet, or "" if it is.
func (s State) problem(v Seen) string {
	d, target := v.Facts.Drivers[s.Plan.Vendor], s.target()
	m, _ := MakerOf(s.Plan.Vendor)
	need := s.need(v.Facts)
	switch {
	case d.Loaded != target:
		return fmt.Sprintf("the loaded module is %q and not %s", d.Loaded, target)
	case m.Library != "" && d.Library != target:
		return fmt.Sprintf("the library is %q and not %s", d.Library, target)
	case !v.Node.Ready:
		return "the node is not ready in Nomad"
	case v.Offered.GPUs < need:
		text := fmt.Sprintf("the device plugin offers %d healthy GPUs of at least %d", v.Offered.GPUs, need)
		if len(v.Offered.Sick) > 0 {
			text += ": " + short(v.Offered.Sick)
		}
		return text
	}
	for _, version := range v.Offered.Versions {
		if version != target && target != InTree {
			return fmt.Sprintf("the device plugin sees driver %s and not %s", version, target)
		}
	}
	return ""
}

// need returns how many GPUs must be healthy: as many as before the change or, if that is 0 or
// unknown, all of the host's. It is at least 1.
func (s State) need(f Facts) int {
	if s.HealthyBefore > 0 {
		return s.HealthyBefore
	}
	all := 0
	for _, g := range f.GPUs {
		if g.Vendor == s.Plan.Vendor {
			all++
		}
	}
	return max(all, 1)
}

// finish returns the node to service, step by step: hold packages, make the node eligible, release
// the slot.
func (s State) finish(v Seen) (State, Verb) {
	switch {
	case s.Trouble != "" && v.Now.Before(s.Retry):
		return s.wait("%s", s.Trouble)
	case len(unheld(v.Facts, s.Plan.Vendor)) > 0 && s.LastDone != Hold:
		return s.act(Hold)
	case s.Eligible && !v.Node.Eligible && !v.Node.others():
		return s.act(Admit) // but a node that somebody else has drained stays drained
	case s.RollingBack:
		return s.fail(v, s.Cause+"; the former version "+s.FromVersion+" was installed again and works")
	}
	s.ReleasingSlot = true
	return s.act(GiveSlot)
}

// failed waits until an operator frees the slot. A node whose driver was not changed takes tasks again.
func failed(s State, v Seen) (State, Verb) {
	held, has := v.Slots.Holders[v.ID]
	switch {
	case s.Trouble != "" && v.Now.Before(s.Retry):
		return s, Wait
	case s.Released && s.Tries < maxTries:
		return s, Resume
	case s.Unharmed && s.Eligible && !v.Node.Eligible && v.Node.Ours && v.Node.Drained:
		return s, Admit
	case has && held.Failed != "":
		s.LastDone = Report
		return s, Wait
	case s.LastDone == Report && v.NoSlots:
		return s, Wait
	case s.LastDone != Report:
		return s, Report
	}
	return s.to(Current, v)
}
