package ownership

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Unix(1_000_000, 0)

func ids(n int) (out []ID) {
	for i := range n {
		out = append(out, ID(fmt.Sprintf("10.0.0.%d:7070", i+1)))
	}
	return out
}

// A gateway that leaves moves only its own services, and they spread over the others.
func TestOnlyTheServicesOfWhoLeavesMove(t *testing.T) {
	all := ids(5)
	const services = 2000
	owned := map[ID]int{}
	for i := range services {
		name := fmt.Sprint("service-", i)
		first := Order(name, all)[0]
		owned[first]++
		rest := slices.DeleteFunc(slices.Clone(all), func(id ID) bool { return id == all[2] })
		if now := Order(name, rest)[0]; first != all[2] && now != first {
			t.Fatalf("%s moves from %s to %s when %s leaves", name, first, now, all[2])
		}
	}
	for _, id := range all {
		if n := owned[id]; n < services/5*3/4 || n > services/5*5/4 {
			t.Errorf("%s owns %d of %d", id, n, services)
		}
	}
}

// The parts of all gateways are the slots, and nobody's part grows when others are known.
func TestPartsAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all, slots := ids(rapid.IntRange(1, 9).Draw(t, "gateways")), rapid.IntRange(1, 40).Draw(t, "slots")
		replica := rapid.String().Draw(t, "replica")
		sum := 0
		for _, id := range all {
			part := Part(replica, slots, id, all)
			sum += part
			if fewer := all[:len(all)-1]; slices.Contains(fewer, id) && Part(replica, slots, id, fewer) < part {
				t.Errorf("%s has more beside more gateways", id)
			}
		}
		if sum != slots {
			t.Errorf("the parts are %d of %d slots", sum, slots)
		}
	})
}

// claim brings a service to the point at which its epoch was taken.
func claim(t *testing.T, v *View, at time.Time) *Service {
	t.Helper()
	s := New("app", ids(1)[0], at)
	s.Observe(Record{}, at)
	action := s.Step(v, at)
	for range 10 {
		if action == Claim {
			break
		}
		at = at.Add(time.Second) // others are before it in the order
		action = s.Step(v, at)
	}
	if action != Claim {
		t.Fatalf("action %d, want a claim", action)
	}
	next, _ := s.Next()
	s.Taken(next.Epoch, at)
	s.Confirm(at)
	return s
}

func peers(link Link, heard time.Time) *View {
	v := &View{Consul: true}
	for _, id := range ids(3)[1:] {
		v.Peers = append(v.Peers, Peer{ID: id, Link: link, Heard: heard, Registered: true})
	}
	return v
}

// Nothing is granted before all have promised and reported.
func TestAnOwnerWaitsForPromisesAndReports(t *testing.T) {
	v := peers(Up, start)
	s := claim(t, v, start)
	now := start.Add(20 * time.Second)
	s.Confirm(now)
	for _, p := range v.Peers {
		if action := s.Step(v, now); action != None || s.MayGrant(now) {
			t.Fatalf("action %d before the promise of %s", action, p.ID)
		}
		s.Promised(p.ID, 1, now)
	}
	if action := s.Step(v, now); action != Announce {
		t.Fatalf("action %d after all promises", action)
	}
	for _, p := range v.Peers {
		if action := s.Step(v, now); action != None || s.MayGrant(now) {
			t.Fatalf("action %d before the report of %s", action, p.ID)
		}
		s.Reported(p.ID, 1, now)
	}
	if action := s.Step(v, now); action != Open || !s.MayGrant(now) {
		t.Fatalf("action %d after all reports", action)
	}
	if s.MayGrant(now.Add(Lease)) {
		t.Error("grants after its lease")
	}
	if action := s.Step(v, now.Add(Lease)); action != Lapse {
		t.Errorf("action %d after the lease", action)
	}
}

// A silent gateway is outlasted: its lease is over before another one grants.
func TestASilentGatewayIsOutlasted(t *testing.T) {
	v := peers(Silent, start.Add(-PeerTimeout))
	s := claim(t, v, start)
	took := start
	for now := start; ; now = now.Add(10 * time.Millisecond) {
		s.Confirm(now)
		if s.Step(v, now); s.MayGrant(now) {
			if waited := now.Sub(took); waited < Lease || waited > time.Second {
				t.Errorf("grants %v after the claim", waited)
			}
			return
		}
		if now.Sub(start) > time.Minute {
			t.Fatal("never grants")
		}
	}
}

// What an owner of an earlier epoch says is not taken, and it gives up when it hears.
func TestEpochsOnlyGrow(t *testing.T) {
	a, b := ids(3)[1], ids(3)[2]
	s := New("app", ids(1)[0], start)
	if !s.Claimed(a, 5, start) || s.Claimed(b, 4, start) || s.Claimed(b, 5, start) {
		t.Error("follows an owner of an earlier epoch, or two of one")
	}
	if !s.Claimed(b, 6, start) {
		t.Error("does not follow a later epoch")
	}
	if role, epoch, _ := s.Role(); role != Member || epoch != 6 {
		t.Errorf("%v in %d", role, epoch)
	}
	if !s.Observe(Record{7, a}, start) {
		t.Error("stays with an owner that was replaced")
	}
	if s.Claimed(b, 6, start) {
		t.Error("follows an owner that was replaced")
	}
}

// Two that cannot reach each other must not take the service from each other for ever.
func TestWhoWasDeposedLeavesItForAWhile(t *testing.T) {
	v := peers(Gone, start)
	s := claim(t, v, start)
	s.Step(v, start)
	s.Step(v, start)
	v.Peers[0].Link, v.Peers[0].Heard = Silent, start.Add(-time.Minute)
	s.Observe(Record{2, v.Peers[0].ID}, start)
	for now := start; now.Before(start.Add(TakeoverBackoff)); now = now.Add(HeartbeatInterval) {
		if s.Step(v, now) == Claim {
			t.Fatalf("claims %v after it was deposed", now.Sub(start))
		}
	}
	if s.Step(v, start.Add(TakeoverBackoff)) != Claim {
		t.Error("never claims again")
	}
}

// A gateway whose claim was written while the answer was lost claims again, whatever it
// has become meanwhile: all others wait for it.
func TestAClaimWithoutAnAnswerIsRepeated(t *testing.T) {
	for name, become := range map[string]func(s *Service){
		"apart":     func(*Service) {},
		"member":    func(s *Service) { s.Claimed(ids(3)[1], 1, start) },
		"gathering": func(s *Service) { s.Taken(1, start); s.gather(&View{}, start) },
	} {
		s := New("app", ids(1)[0], start)
		s.Observe(Record{}, start)
		become(s)
		s.Observe(Record{2, ids(1)[0]}, start)
		v := &View{Consul: true}
		if action := s.Step(v, start.Add(time.Second)); action != Claim {
			t.Errorf("%s: action %d, want a claim", name, action)
		}
		if next, _ := s.Next(); next.Epoch != 3 {
			t.Errorf("%s: it claims epoch %d, want 3", name, next.Epoch)
		}
	}
}

// A gateway that has promised is asked to report, although it was silent until then: what
// it holds is not what it held when it was heard before.
func TestAPromiseBreaksTheSilence(t *testing.T) {
	v := peers(Silent, start.Add(-PeerTimeout))
	s := claim(t, v, start)
	for _, p := range v.Peers {
		s.Promised(p.ID, 1, start)
	}
	if action := s.Step(v, start); action != Announce {
		t.Fatalf("action %d after all promises", action)
	}
	for _, p := range v.Peers {
		s.Confirm(start)
		if s.Step(v, start); s.MayGrant(start) {
			t.Fatalf("grants before the report of %s", p.ID)
		}
		s.Reported(p.ID, 1, start)
	}
	if s.Step(v, start); !s.MayGrant(start) {
		t.Error("does not grant after all reports")
	}
}

// One that alone does not hear the owner leaves it there: others follow it.
func TestAnOwnerThatIsFollowedIsNotLost(t *testing.T) {
	owner, other := ids(3)[1], ids(3)[2]
	s := New("app", ids(1)[0], start)
	s.Observe(Record{4, owner}, start)
	v := &View{Consul: true, Peers: []Peer{
		{ID: owner, Link: Silent, Heard: start, Registered: true},
		{ID: other, Link: Up, Heard: start, Registered: true, Follows: 4},
	}}
	if action := s.Step(v, start.Add(time.Minute)); action != None {
		t.Errorf("action %d although another gateway follows the owner", action)
	}
	v.Peers[1].Follows = 3
	if action := s.Step(v, start.Add(time.Minute)); action != Claim {
		t.Errorf("action %d, want a claim of a service whose owner nobody hears", action)
	}
}

// An owner keeps the service, although another one is the first in the order, as long as that one does
// not hear all others: they would not follow it.
func TestAServiceMovesOnlyToAGatewayThatHearsAllOthers(t *testing.T) {
	all := ids(3)
	name := ""
	for name = "app"; Order(name, all)[1] != all[0]; name += "x" {
	}
	first := Order(name, all)[0]
	for _, c := range []struct {
		hears []ID
		moves bool
	}{
		{nil, true}, // an earlier release does not say
		{all, true},
		{all[:1], false},
	} {
		v := peers(Up, start)
		for i := range v.Peers {
			if v.Peers[i].ID == first {
				v.Peers[i].Hears = c.hears
			}
		}
		s := New(name, all[0], start)
		if s.handsOver(v, start) {
			t.Errorf("%v: it moves at once", c.hears)
		}
		if got := s.handsOver(v, start.Add(HandoverDelay)); got != c.moves {
			t.Errorf("%v: it moves: %t, want %t", c.hears, got, c.moves)
		}
		if v.Leaving = true; !s.handsOver(v, start) {
			t.Errorf("%v: a gateway that is about to end keeps it", c.hears)
		}
	}
}
