package line

import (
	"cmp"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"aliquot.example/gateway/talk"
	"aliquot.example/internal/dispatch"
	"aliquot.example/internal/ownership"
)

// shared runs a test on three gateways with one policy, of which the first returned one
// owns the service.
func shared(t *testing.T, replicas, slots int, o Options, test func(t *testing.T, w *world, all []*node)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3, replicas, slots, func(w *world) { w.options = func(*node) Options { return o } })
		w.run(5*time.Second, 0, nil, 1)
		owner := w.owner()
		if owner == nil {
			t.Fatal("nobody owns the service")
		}
		all := append([]*node{owner}, slices.DeleteFunc(slices.Clone(w.nodes), func(n *node) bool { return n == owner })...)
		test(t, w, all)
		for _, n := range w.nodes {
			n.crash()
		}
		synctest.Wait()
	})
}

// pass is a request of a test, and how it got on.
type pass struct {
	Pass
	at   *node
	done chan error
}

// begin enters a request and lets the gateways talk until it has a slot, waits for one or
// is refused.
func (w *world) begin(n *node, r dispatch.Request) *pass {
	p := w.enter(n, r)
	w.run(400*time.Millisecond, 0, nil, 1)
	return p
}

// enter enters a request before the gateways talk.
func (w *world) enter(n *node, r dispatch.Request) *pass {
	p := &pass{at: n, done: make(chan error, 1)}
	r.Expire = time.Now().Add(time.Hour)
	ctx, s := n.ctx, n.shared
	go func() { p.done <- s.Enter(ctx, &p.Pass, r) }()
	synctest.Wait()
	return p
}

// state is "active", "waits", or why the request was refused.
func (p *pass) state() string {
	select {
	case err := <-p.done:
		p.done <- err
		var refused *Refused
		switch {
		case err == nil:
			return "active"
		case errors.As(err, &refused):
			return refused.Error()
		}
		return err.Error()
	default:
		return "waits"
	}
}

func (p *pass) leave(o dispatch.Verdict) { p.at.shared.Leave(&p.Pass, o, 0) }

// Queue, tenants' queues and tenants' slots are bounded over all gateways together.
func TestBoundsHoldForAllGateways(t *testing.T) {
	limits := map[string]dispatch.Limits{"small": {Weight: 1, MaxActive: 1, MaxQueue: 2}, "": {Weight: 1}}
	shared(t, 1, 2, Options{Policy: dispatch.Policy{MaxQueue: 4, Tenants: limits}}, func(t *testing.T, w *world, all []*node) {
		full := (&Refused{Why: dispatch.QueueFull}).Error()
		for i, c := range []struct{ tenant, want string }{
			{"small", "active"}, {"small", "waits"}, {"small", "waits"}, {"small", (&Refused{Why: dispatch.TenantFull}).Error()},
			{"large", "active"}, {"large", "waits"}, {"large", "waits"}, {"large", full}, {"large", full}, {"large", full},
		} {
			n := all[i%len(all)]
			if got := w.begin(n, dispatch.Request{Tenant: c.tenant}).state(); got != c.want {
				t.Errorf("request %d, of tenant %s at gateway %d: %s, want %s", i, c.tenant, n.i, got, c.want)
			}
		}
	})
}

// A gateway that reports its requests again to the same owner, as after a reconnect, reports new ones
// among them, to which the limits apply, and those that the owner has accepted, to which they no
// longer do.
func TestBoundsHoldForWhatIsReportedAgain(t *testing.T) {
	for seed := range uint64(8) {
		shared(t, 1, 1, Options{Policy: dispatch.Policy{MaxQueue: 3}}, func(t *testing.T, w *world, all []*node) {
			w.rng = rand.New(rand.NewPCG(seed, 1))
			owner, member, other := all[0].shared, all[1], all[2]
			first := w.begin(member, dispatch.Request{})
			waiting := []*pass{w.begin(member, dispatch.Request{}), w.begin(other, dispatch.Request{})}
			owner.Greet(member.id) // so that it ignores what the member asks, until the member reports again
			waiting = append(waiting, w.enter(member, dispatch.Request{}))
			late := w.enter(member, dispatch.Request{})
			w.run(400*time.Millisecond, 0, nil, 1)
			owner.Greet(member.id)
			w.run(400*time.Millisecond, 0, nil, 1)
			if got, want := late.state(), (&Refused{Why: dispatch.QueueFull}).Error(); got != want {
				t.Errorf("a request beyond the limit: %s, want %s", got, want)
			}
			for i, p := range waiting {
				if got := p.state(); got != "waits" {
					t.Errorf("request %d within the limit: %s", i, got)
				}
			}
			for _, p := range append([]*pass{first}, waiting...) {
				p.leave(dispatch.Served)
				w.run(400*time.Millisecond, 0, nil, 1)
			}
			for i, p := range waiting {
				if got := p.state(); got != "active" {
					t.Errorf("request %d within the limit: %s", i, got)
				}
			}
		})
	}
}

// A replica that failed at one gateway is given to none.
func TestABadReplicaIsEjectedForAllGateways(t *testing.T) {
	shared(t, 2, 1, Options{}, func(t *testing.T, w *world, all []*node) {
		bad := w.begin(all[1], dispatch.Request{})
		id := bad.Endpoint.ID
		bad.leave(dispatch.Unreachable)
		for _, n := range []*node{all[2], all[0], all[1]} {
			p := w.begin(n, dispatch.Request{})
			if p.Endpoint == nil || p.Endpoint.ID == id {
				t.Errorf("gateway %d sends to %v, which could not be reached", n.i, p.Endpoint)
			}
			p.leave(dispatch.Served)
		}
	})
}

// The replica that has a prompt in its cache is found for the request of any gateway.
func TestPromptsAreFoundFromAllGateways(t *testing.T) {
	shared(t, 4, 8, Options{Policy: dispatch.Policy{Mode: dispatch.Tokens}}, func(t *testing.T, w *world, all []*node) {
		r := dispatch.Request{Prompt: 4000, Output: 10}
		for i := range uint64(r.Prompt / 16) {
			r.Blocks = append(r.Blocks, i+1)
		}
		first := w.begin(all[1], r)
		id := first.Endpoint.ID
		first.at.shared.Began(&first.Pass)
		first.leave(dispatch.Served)
		for _, n := range []*node{all[2], all[0], all[1], all[2]} {
			p := w.begin(n, r)
			if p.Endpoint == nil || p.Endpoint.ID != id {
				t.Errorf("the request at gateway %d went to %v, its prompt is at %s", n.i, p.Endpoint, id)
			}
			n.shared.Began(&p.Pass)
			p.leave(dispatch.Served)
		}
		w.kill(all[0]) // the next owner knows what it sent itself
		w.run(5*time.Second, 0, nil, 1)
		for _, n := range all[1:] {
			p := w.begin(n, r)
			if p.Endpoint == nil || p.Endpoint.ID != id {
				t.Errorf("under the next owner the request at gateway %d went to %v, its prompt is at %s", n.i, p.Endpoint, id)
			}
			n.shared.Began(&p.Pass)
			p.leave(dispatch.Served)
		}
	})
}

// What is learned of a replica's speed is learned from the requests of all gateways, by
// the one that decides; it alone is to publish it.
func TestSpeedsAreLearnedFromAllGateways(t *testing.T) {
	shared(t, 1, 1, Options{}, func(t *testing.T, w *world, all []*node) {
		for i := range 12 {
			w.begin(all[1+i%2], dispatch.Request{}).leave(dispatch.Served)
		}
		w.run(time.Second, 0, nil, 1)
		for _, n := range all {
			if n.shared.Decides() != (n == all[0]) {
				t.Errorf("gateway %d would publish: %t", n.i, n.shared.Decides())
			}
		}
		if r := all[0].shared.Rates()["c"]; r.Samples < 8 || r.Rate < 2 || r.Rate > 3 {
			t.Errorf("the owner learned %+v of 12 requests of 0.4 s at other gateways", r)
		}
	})
}

// One gateway has a service woken, whichever requests come to; while nobody owns the
// service every gateway does, and Nomad scales no group that is wanted.
func TestOneGatewayWakesAService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var starved [3]atomic.Int64
		w := newWorld(t, 1, 3, 0, 1, func(w *world) {
			w.options = func(n *node) Options { return Options{Starved: func() { starved[n.i].Add(1) }} }
		})
		w.run(5*time.Second, 0, nil, 1)
		owner := w.owner()
		for _, n := range w.nodes {
			if n != owner {
				w.begin(n, dispatch.Request{})
			}
		}
		w.run(time.Second, 0, nil, 1)
		for _, n := range w.nodes {
			if got := starved[n.i].Load(); (got > 0) != (n == owner) {
				t.Errorf("gateway %d, which is the owner: %t, asked %d times for a replica", n.i, n == owner, got)
			}
		}
		for _, n := range w.nodes {
			n.crash()
		}
	})
}

// The demand that each gateway reports is that of all, in requests and in tokens, before
// and after one joins, and while one is silent.
func TestDemandIsThatOfAllGateways(t *testing.T) {
	shared(t, 1, 3, Options{Policy: dispatch.Policy{Mode: dispatch.Tokens}}, func(t *testing.T, w *world, all []*node) {
		whole := dispatch.Request{Prompt: 1000, Output: 100, Whole: true} // 1050 tokens throughout
		for i := range 5 {
			w.begin(all[i%3], whole)
		}
		check := func(when string, of []*node) {
			t.Helper()
			w.run(3*time.Second, 0, nil, 1)
			for _, n := range of {
				points := n.shared.Concurrency(time.Now(), time.Second)
				if len(points) != 1 {
					t.Fatalf("%s: gateway %d has %d points", when, n.i, len(points))
				}
				p := points[0]
				got := []float64{p.Queued, p.Active, p.Class["c"], p.Tokens.Queued / 1050, p.Tokens.Active / 1050, p.Tokens.Class["c"] / 1050}
				if slices.CompareFunc(got, []float64{2, 3, 3, 2, 3, 3}, nearly) != 0 {
					t.Errorf("%s: gateway %d reports %+v, want 2 waiting and 3 served of 1050 tokens each", when, n.i, p)
				}
			}
		}
		check("at first", all)
		idle := w.idle()
		check("when a gateway without requests was added", append(all, idle))
		idle.paused = time.Now().Add(20 * time.Second)
		check("while that one is silent", all)
	})
}

// nearly compares two numbers up to what sums of parts of a second differ by.
func nearly(a, b float64) int {
	if math.Abs(a-b) < 1e-6 {
		return 0
	}
	return cmp.Compare(a, b)
}

// idle adds a gateway to the world.
func (w *world) idle() *node {
	n := &node{w: w, i: len(w.nodes), id: ownership.ID("10.0.0.99:7070"), consul: true}
	w.nodes = append(w.nodes, n)
	n.start(1)
	return n
}

// What an owner knew of a gateway counts alone if it is newer than the gateway's own last word.
func TestTheLatestKnowledgeOfASilentGatewayCounts(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		held map[string]int
		at   time.Duration // after the last load, which says that it holds three slots of r
		want int
	}{
		{nil, 0, 3},
		{map[string]int{}, time.Second, 0},
		{map[string]int{"q": 1}, time.Second, 1},
		{map[string]int{"q": 1, "r": 1}, -time.Second, 4},
		{map[string]int{"q": 1}, -ownership.SlotHold, 3},
	} {
		s := NewShared(Options{}, "app", "a", func(ownership.ID, talk.Record) {})
		b := s.peerState("b")
		b.load, b.lastRecord = talk.Load{Replicas: []talk.Held{{Replica: "r", Count: 3}}}, now.Add(-2*time.Second)
		b.keepHeld(c.held, 1, b.lastRecord.Add(c.at))
		s.assumeHeld("b", b, now)
		if got := len(b.remotes); got != c.want {
			t.Errorf("%v, known %v after its load: %d slots are held, want %d", c.held, c.at, got, c.want)
		}
	}
}

// Another gateway may say what it likes of its requests.
func TestWhatIsPresumedIsBounded(t *testing.T) {
	s := NewShared(Options{}, "app", "a", func(ownership.ID, talk.Record) {})
	now := time.Now()
	b := s.peerState("b")
	b.load = talk.Load{Replicas: []talk.Held{{Replica: "r", Count: 1 << 40}}}
	s.assumeHeld("b", b, now)
	if n := len(b.remotes); n > maxAssumed {
		t.Errorf("%d requests are presumed", n)
	}
	c := s.peerState("c")
	c.keepHeld(map[string]int{"r": 1 << 40, "q": -1}, 1, now)
	s.assumeHeld("c", c, now)
	if n := len(c.remotes); n > maxAssumed {
		t.Errorf("%d requests are presumed by the word of an owner", n)
	}
	// Only the owner that this gateway follows says what others hold.
	s.Take("x", []talk.Record{{Kind: talk.Holds, Service: "app", Gateway: "d", Loads: []talk.Load{{Replicas: []talk.Held{{Replica: "r", Count: 1}}}}}})
	if d := s.peerStates["d"]; d != nil {
		t.Errorf("a gateway that owns nothing was believed: %v", d.lastHeld)
	}
}
