package line

import (
	"testing"
	"testing/synctest"
	"time"

	"aliquot.example/internal/ownership"
)

// separate cuts two gateways off from each other.
func (w *world) separate(i, j int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[[2]int{i, j}], w.cut[[2]int{j, i}] = time.Now(), time.Now()
}

// isolate cuts a gateway off from the two others.
func (w *world) isolate(n *node) {
	w.separate(n.i, (n.i+1)%3)
	w.separate(n.i, (n.i+2)%3)
}

// end ends all gateways, and waits until the longest request has ended.
func (w *world) end(longest time.Duration) {
	for _, n := range w.nodes {
		n.crash()
	}
	synctest.Wait()
	time.Sleep(longest)
}

// A member that hears nothing, and is heard, is granted slots for a while. It keeps no more
// of them than it says that it uses: the others go on.
func TestAGatewayThatHearsNothingKeepsNoSlotsThatItDidNotTake(t *testing.T) {
	for seed := range uint64(4) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed, 3, 2, 4)
			w.run(5*time.Second, 0, nil, 1)
			owner := w.owner()
			deaf, other := w.nodes[(owner.i+1)%3], w.nodes[(owner.i+2)%3]
			var order []string
			deaf.ask("deaf", 10*time.Second, &order) // has one slot throughout
			w.run(500*time.Millisecond, 0, nil, 1)
			w.mu.Lock()
			w.cut[[2]int{owner.i, deaf.i}] = time.Now()
			w.mu.Unlock()
			for range 20 {
				deaf.ask("deaf", 100*time.Millisecond, &order)
			}
			w.run(2*time.Second, 0, nil, 1)
			for range 60 {
				other.ask("other", 100*time.Millisecond, &order)
			}
			w.run(500*time.Millisecond, 0, nil, 1)
			w.mu.Lock()
			n := 0
			for _, name := range order {
				if name == "other" {
					n++
				}
			}
			w.mu.Unlock()
			if n == 0 {
				t.Error("a gateway waits for slots that were granted to one that did not hear of them")
			}
			w.run(15*time.Second, 0, nil, 1) // the replicas count
			w.end(time.Minute)
		})
	}
}

// Two gateways that are cut off from each other lose their owner, whose process ends, and
// divide the slots between them. When one of them has come to own the service, it leaves the
// other one that part also while the former owner is back.
func TestAPartDoesNotShrinkForOneThatIsBack(t *testing.T) {
	for seed := range uint64(4) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed, 3, 9, 2)
			w.run(5*time.Second, 0, nil, 1)
			ends := w.owner()
			a, b := w.nodes[(ends.i+1)%3], w.nodes[(ends.i+2)%3]
			w.separate(a.i, b.i)
			w.run(2*time.Second, 8, nil, 1)
			a.consul = false
			w.kill(ends)
			w.run(6*time.Second, 8, nil, 1)
			if role, _, _ := b.shared.Role(); role != ownership.Owner {
				t.Fatalf("gateway %d is %v", b.i, role)
			}
			ends.start(9)
			w.run(4*time.Second, 8, nil, 1) // the replicas count
			w.end(time.Minute)
		})
	}
}

// A gateway held all slots when the owner lost its role, and none when it was cut off, after it had
// followed another owner. The former owner, which owns the service again, keeps it no more than its
// part.
func TestSlotsOfAnEarlierTermAreNotKept(t *testing.T) {
	for seed := range uint64(4) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed, 3, 1, 4)
			w.run(2*ownership.HandoverDelay, 0, nil, 1)
			owner := w.owner()
			busy, other := w.nodes[(owner.i+1)%3], w.nodes[(owner.i+2)%3]
			var order []string
			for range 4 {
				busy.ask("busy", 3*time.Second, &order)
			}
			w.run(500*time.Millisecond, 0, nil, 1)
			w.isolate(owner)
			w.run(4*time.Second, 0, nil, 1)
			w.heal()
			w.run(2*time.Second, 0, nil, 1)
			if role, _, _ := owner.shared.Role(); role != ownership.Member {
				t.Fatalf("gateway %d is %v", owner.i, role)
			}
			w.isolate(busy)
			w.run(2*ownership.HandoverDelay, 0, nil, 1)
			if role, _, _ := owner.shared.Role(); role != ownership.Owner {
				t.Fatalf("gateway %d is %v", owner.i, role)
			}
			for range 4 {
				other.ask("other", 100*time.Millisecond, &order)
			}
			w.run(time.Second, 0, nil, 1)
			w.mu.Lock()
			if got := len(order); got != 8 {
				t.Errorf("%d of 4 requests began beside a gateway that had nothing", got-4)
			}
			w.mu.Unlock()
			w.run(15*time.Second, 0, nil, 1) // the replicas count
			w.end(time.Minute)
		})
	}
}

// Two gateways do not hear each other, and the third, which hears both, owns the service: it keeps it,
// although another one is the first in the order, because that one would not be followed by all.
// When the owner is about to end, the next one learns from it what the gateway holds that it does
// not hear.
func TestTheOwnerHearsAllOthers(t *testing.T) {
	for seed := range uint64(4) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed, 3, 1, 4)
			w.run(2*ownership.HandoverDelay, 0, nil, 1)
			first := w.owner()
			w.isolate(first)
			w.run(4*time.Second, 0, nil, 1)
			w.heal()
			w.run(2*time.Second, 0, nil, 1)
			owner := w.owner()
			if owner == first {
				t.Fatal("the service has not moved")
			}
			other := w.nodes[3-owner.i-first.i]
			w.separate(first.i, other.i)
			w.run(2*time.Second, 0, nil, 1)
			var order []string
			long := func() {
				for range 2 {
					first.ask("long", 20*time.Second, &order)
					other.ask("long", 20*time.Second, &order)
				}
			}
			short := func(d time.Duration) {
				for range d / time.Second {
					w.run(time.Second, 0, nil, 1)
					first.ask("short", 100*time.Millisecond, &order)
					other.ask("short", 100*time.Millisecond, &order)
				}
			}
			long()
			short(2*ownership.HandoverDelay + 5*time.Second)
			if role, _, _ := owner.shared.Role(); role != ownership.Owner {
				t.Errorf("gateway %d is %v", owner.i, role)
			}
			long()
			w.run(time.Second, 0, nil, 1)
			owner.leaving = true
			short(15 * time.Second)
			if role, _, _ := owner.shared.Role(); role == ownership.Owner {
				t.Error("a gateway that is about to end keeps the service")
			}
			w.run(time.Minute, 0, nil, 1) // the replicas count
			w.end(2 * time.Minute)
		})
	}
}

// A gateway was cut off while it held all slots. They are free 30 s later, also where the owner that
// saw it last has told another one meanwhile, which owns the service now.
func TestWhatASilentGatewayHeldKeepsItsAge(t *testing.T) {
	for seed := range uint64(4) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed, 3, 1, 4)
			w.run(2*ownership.HandoverDelay, 0, nil, 1)
			owner := w.owner()
			busy, next := w.nodes[(owner.i+1)%3], w.nodes[(owner.i+2)%3]
			var order []string
			for range 4 {
				busy.ask("busy", 5*time.Second, &order)
			}
			w.run(500*time.Millisecond, 0, nil, 1)
			w.isolate(busy)
			busy.consul = false
			w.run(ownership.SlotHold*2/3, 0, nil, 1)
			owner.leaving = true
			w.run(2*time.Second, 0, nil, 1)
			if role, _, _ := next.shared.Role(); role != ownership.Owner {
				t.Fatalf("gateway %d is %v", next.i, role)
			}
			for range 4 {
				next.ask("next", 100*time.Millisecond, &order)
			}
			w.run(ownership.SlotHold/2, 0, nil, 1)
			w.mu.Lock()
			if got := len(order) - 4; got != 4 {
				t.Errorf("%d of 4 requests began", got)
			}
			w.mu.Unlock()
			w.end(2 * time.Minute)
		})
	}
}
