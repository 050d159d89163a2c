package dispatch

import "testing"

// place puts a replica into a fleet alone, at a speed.
func place(f *fleet, id, class string, slots int, rate float64) *server {
	r := Replica{ID: id, Class: class, Slots: slots}
	k := f.kindOf(&r)
	f.put(r, k)
	s := f.servers[id]
	s.tier.rate = rate
	return s
}

func TestFleetCountsWhatServes(t *testing.T) {
	f := newFleet(Ejection{})
	fast := place(&f, "fast", "h100", 2, 2)
	slow := place(&f, "slow", "l4", 1, 1)
	anywhere, l4 := &placement{}, &placement{Placement: Placement{Require: []string{"l4"}}}
	if f.slots != 3 || f.fastest(anywhere, false) != fast.tier || f.fastest(l4, false) != slow.tier {
		t.Fatalf("%d slots, the fastest %+v", f.slots, f.fastest(anywhere, false))
	}
	if free, rate, best, present := f.capacity(anywhere); free != 2 || rate != 5 || best != 2 || !present {
		t.Errorf("the capacity is %v tiers, %v, %v, %v", free, rate, best, present)
	}
	fast.active = 2
	f.refile(fast)
	if f.slots != 3 || f.fastest(anywhere, false) != slow.tier {
		t.Errorf("a full replica counts as free")
	}
	f.drop("fast")
	if f.slots != 1 || f.present["h100"] != 0 || f.servers["fast"] == nil {
		t.Errorf("a replica that finishes its work counts as %d slots, or is gone", f.slots)
	}
	fast.active = 0
	f.removeIfDone(fast)
	if len(f.servers) != 1 || len(f.all) != 1 {
		t.Errorf("%d replicas are left, want 1", len(f.servers))
	}
}

func TestFleetTakesOutWhatCannotBeReached(t *testing.T) {
	f := newFleet(Ejection{})
	s := place(&f, "a", "h100", 1, 1)
	f.judge(s, &Ticket{rule: &placement{}}, Unreachable, 0, epoch)
	f.refile(s)
	if f.slots != 0 || f.suspended.len() != 1 {
		t.Fatalf("%d slots of a replica that refuses connections", f.slots)
	}
	f.resume(s.health.until)
	if f.slots != 1 || !s.health.onProbation {
		t.Errorf("%d slots after its time out, on probation: %v", f.slots, s.health.onProbation)
	}
}
