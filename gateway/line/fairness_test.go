package line

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"aliquot.example/internal/dispatch"
	"aliquot.example/internal/ownership"
)

// ask enters a request that takes so long, and notes its tenant when it is served.
func (n *node) ask(tenant string, took time.Duration, order *[]string) {
	w, shared, ctx := n.w, n.shared, n.ctx
	go func() {
		var p Pass
		if err := shared.Enter(ctx, &p, dispatch.Request{Tenant: tenant, Expire: time.Now().Add(time.Hour)}); err != nil {
			return
		}
		w.mu.Lock()
		*order = append(*order, tenant)
		id := p.Endpoint.ID
		if w.busy[id]++; w.busy[id] > w.slots {
			w.t.Errorf("replica %s serves %d of %d", id, w.busy[id], w.slots)
		}
		w.mu.Unlock()
		time.Sleep(took)
		w.mu.Lock()
		w.busy[id]--
		w.mu.Unlock()
		if ctx.Err() == nil {
			shared.Leave(&p, dispatch.Served, 0)
		}
	}()
	synctest.Wait()
}

// owner finds the gateway that decides.
func (w *world) owner() *node {
	for _, n := range w.nodes {
		if role, _, _ := n.shared.Role(); n.alive && role == ownership.Owner {
			return n
		}
	}
	return nil
}

// A tenant that had much more than its share waits for its turn also when the owner of
// the service is lost or drains: the others have served less of it, and it waits longest.
func TestFairnessOutlivesTheOwner(t *testing.T) {
	for name, loss := range map[string]func(w *world, owner *node){
		"killed": func(w *world, owner *node) { w.kill(owner) },
		"drains": func(_ *world, owner *node) { owner.leaving = true },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, 3, 1, 1)
				w.run(5*time.Second, 0, nil, 1)
				owner := w.owner()
				var order []string
				left := slices.DeleteFunc(slices.Clone(w.nodes), func(n *node) bool { return n == owner })
				// What requests take is learned first.
				for range 40 {
					left[0].ask("modest", 100*time.Millisecond, &order)
				}
				w.run(8*time.Second, 0, nil, 1)
				left[0].ask("greedy", 3*time.Second, &order)
				for i := range 20 {
					left[i%2].ask("greedy", 100*time.Millisecond, &order)
				}
				for i := range 20 {
					left[i%2].ask("modest", 100*time.Millisecond, &order)
				}
				w.run(3200*time.Millisecond, 0, nil, 1)
				loss(w, owner)
				w.run(20*time.Second, 0, nil, 1)
				w.mu.Lock()
				defer w.mu.Unlock()
				began := order[40:]
				if len(began) != 41 {
					t.Fatalf("%d requests were served, want 41", len(began))
				}
				// The long one is worth about 30 of the others: modest ones come first.
				if n := slices.Index(began[2:], "greedy"); n < 10 {
					t.Errorf("after the loss the greedy tenant is served after %d of the modest one: %v", n, began)
				}
				for _, n := range w.nodes {
					n.crash()
				}
			})
		})
	}
}
