package line

import (
	"testing"
	"testing/synctest"
	"time"

	"aliquot.example/internal/ownership"
)

// three returns the owner of a world of three gateways, and the other two.
func (w *world) three() (owner, a, b *node) {
	owner = w.owner()
	for _, n := range w.nodes {
		if n != owner {
			a, b = n, a
		}
	}
	return owner, a, b
}

// A stopped gateway keeps the slots of the requests that it had begun, and not those of
// grants that it never used.
func TestAStoppedGatewayKeepsNoSlotsThatItDidNotTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3, 1, 2)
		w.run(5*time.Second, 0, nil, 1)
		_, stopped, other := w.three()
		var order []string
		stopped.ask("stopped", 5*time.Second, &order) // has one slot throughout
		w.run(time.Second, 0, nil, 1)
		for range 20 {
			stopped.ask("stopped", 100*time.Millisecond, &order)
			other.ask("other", 100*time.Millisecond, &order)
		}
		w.run(200*time.Millisecond, 0, nil, 1)
		stopped.paused = time.Now().Add(20 * time.Second)
		w.run(6*time.Second, 0, nil, 1)
		served := 0
		w.mu.Lock()
		for _, name := range order {
			if name == "other" {
				served++
			}
		}
		w.mu.Unlock()
		if served != 20 {
			t.Errorf("%d of 20 requests of another gateway were served in 6 s on one slot", served)
		}
		w.run(40*time.Second, 0, nil, 1)
		if len(order) != 41 {
			t.Errorf("%d of 41 requests were served at last", len(order))
		}
		for _, n := range w.nodes {
			n.crash()
		}
	})
}

// A process that continues after it was stopped grants no slot before it knows who decides
// now, whatever happens first.
func TestAWokenGatewayGivesNoSlot(t *testing.T) {
	for name, first := range map[string]func(*Shared){
		"nothing": func(*Shared) {},
		"acked":   func(s *Shared) { s.Acked(time.Now().Add(-10 * time.Second)) },
		"Consul":  func(s *Shared) { s.Saw(ownership.Record{Epoch: 99, Owner: "another"}) },
		"confirm": func(s *Shared) { s.Confirm(ownership.Record{Epoch: 99, Owner: "another"}, time.Now()) },
		"a peer":  func(s *Shared) { s.Gone("another") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, 3, 1, 1)
				w.run(5*time.Second, 0, nil, 1)
				owner := w.owner()
				var order []string
				owner.ask("first", 10*time.Second, &order)
				owner.ask("second", time.Second, &order)
				time.Sleep(10*time.Second - time.Millisecond) // it looks at nothing
				first(owner.shared)
				time.Sleep(2 * time.Millisecond)
				synctest.Wait()
				if len(order) != 1 {
					t.Errorf("it began %v", order)
				}
				for _, n := range w.nodes {
					n.crash()
				}
			})
		})
	}
}

// The requests that a gateway had begun keep their slots while the gateway is silent, also
// under the next owner.
func TestASilentGatewayKeepsWhatItBegan(t *testing.T) {
	for name, next := range map[string]func(w *world, owner *node){
		"the owner stays": func(*world, *node) {},
		"the owner ends":  func(w *world, owner *node) { w.kill(owner) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, 3, 1, 2)
				w.run(5*time.Second, 0, nil, 1)
				owner, stopped, other := w.three()
				var order []string
				for range 2 { // more than its part, which it is left in any case
					stopped.ask("stopped", 15*time.Second, &order)
				}
				w.run(time.Second, 0, nil, 1)
				stopped.paused = time.Now().Add(12 * time.Second)
				w.run(2*time.Second, 0, nil, 1)
				next(w, owner)
				for range 60 {
					other.ask("other", 200*time.Millisecond, &order) // it counts what the replica serves
				}
				w.run(30*time.Second, 0, nil, 1)
				if len(order) != 62 {
					t.Errorf("%d of 62 requests were served", len(order))
				}
				for _, n := range w.nodes {
					n.crash()
				}
				synctest.Wait()
			})
		})
	}
}
