package line

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"aliquot.example/gateway/talk"
	"aliquot.example/internal/dispatch"
	"aliquot.example/internal/ownership"
)

// world is gateways that share a service, what connects them, and the replicas, which
// count. The gateways are the product's; streams, Consul and the replicas are these.
type world struct {
	t       *testing.T
	rng     *rand.Rand
	nodes   []*node
	slots   int
	classes []string // of the replicas, in turn
	// options are those of the line of a gateway; nil for none.
	options func(n *node) Options

	mu       sync.Mutex
	record   ownership.Record
	cut      map[[2]int]time.Time // what one says does not reach the other, since then
	streams  map[[2]int]*pipe     // by who opened it, and to whom
	busy     map[string]int
	granters map[uint64]int // who granted in an epoch
	served   int
	lost     int
	open     int // requests under way
	tracing  sync.Mutex
	trace    []string
}

// pipe is one stream: what its opener said, and what the other end said.
type pipe struct{ ask, answer []talk.Record }

type node struct {
	w       *world
	i       int
	id      ownership.ID
	shared  *Shared
	process uint64
	ctx     context.Context
	crash   context.CancelFunc
	alive   bool
	died    time.Time
	paused  time.Time // until then
	consul  bool      // it reaches Consul
	unheard time.Time // until then it has not noticed that it does not
	leaving bool
	was     string // its role

	links     map[int]*linked
	heartbeat uint64
	sent      map[uint64]time.Time
	pending   []func() // what is left of a claim that is under way: its write, its answer
}

type linked struct {
	link    ownership.Link
	heard   time.Time
	number  uint64
	acked   time.Time
	hears   []ownership.ID
	process uint64
	up      bool
}

const (
	modelTick = 50 * time.Millisecond
	// stall is how long a host goes on sending that hears no acknowledgement.
	stall = 400 * time.Millisecond
	// ends is when it ends the connection.
	ends = 1600 * time.Millisecond
)

// unheard reports whether nothing that one gateway says reaches another one; entered with
// the lock held.
func (w *world) unheard(from, to int, now time.Time) bool {
	if _, cut := w.cut[[2]int{from, to}]; cut {
		return true
	}
	at, cut := w.cut[[2]int{to, from}]
	return cut && now.Sub(at) > stall
}

// apart reports whether a cut keeps two gateways from connecting, and whether it has ended
// the connections that they had.
func (w *world) apart(i, j int, now time.Time) (cut, ended bool) {
	for _, d := range [][2]int{{i, j}, {j, i}} {
		if at, is := w.cut[d]; is {
			cut, ended = true, ended || now.Sub(at) > ends
		}
	}
	return cut, ended
}

func newWorld(t *testing.T, seed uint64, n, replicas, slots int, set ...func(*world)) *world {
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), slots: slots, classes: []string{"c"}, cut: map[[2]int]time.Time{}, streams: map[[2]int]*pipe{}, busy: map[string]int{}, granters: map[uint64]int{}}
	for _, do := range set {
		do(w)
	}
	for i := range n {
		w.nodes = append(w.nodes, &node{w: w, i: i, id: ownership.ID(fmt.Sprintf("10.0.0.%d:7070", i)), consul: true})
	}
	for _, n := range w.nodes {
		n.start(replicas)
	}
	return w
}

func (w *world) note(format string, args ...any) {
	w.tracing.Lock() // apart from mu, which some callers hold
	defer w.tracing.Unlock()
	w.trace = append(w.trace, fmt.Sprintf("%s ", time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)))+fmt.Sprintf(format, args...))
	if len(w.trace) > 60 {
		w.trace = w.trace[1:]
	}
}

func (n *node) start(replicasCount int) {
	n.process++
	n.alive, n.leaving, n.paused, n.pending = true, false, time.Time{}, nil
	n.ctx, n.crash = context.WithCancel(context.Background())
	n.links, n.sent, n.heartbeat = map[int]*linked{}, map[uint64]time.Time{}, 0
	process := n.process
	var o Options
	if n.w.options != nil {
		o = n.w.options(n)
	}
	n.shared = NewShared(o, "app", n.id, func(to ownership.ID, r talk.Record) { n.send(process, to, r) })
	var all []Replica
	for i := range replicasCount {
		all = append(all, Replica{Address: fmt.Sprint(i), Replica: dispatch.Replica{ID: fmt.Sprint(i), Class: n.w.classes[i%len(n.w.classes)], Slots: n.w.slots, Weight: 1}})
	}
	n.shared.Set(all)
}

func (w *world) at(id ownership.ID) int {
	for i, n := range w.nodes {
		if n.id == id {
			return i
		}
	}
	return -1
}

func (n *node) send(process uint64, to ownership.ID, r talk.Record) {
	w := n.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if process != n.process || !n.alive {
		return
	}
	j := w.at(to)
	if r.Kind.FromOwner() {
		if p := w.streams[[2]int{j, n.i}]; p != nil {
			p.answer = append(p.answer, r)
		}
		if r.Kind == talk.Grant {
			w.grants(r.Epoch, n.i)
		}
		return
	}
	if p := w.streams[[2]int{n.i, j}]; p != nil {
		p.ask = append(p.ask, r)
	}
}

// grants pins that no two gateways grant in one epoch; entered with the lock held.
func (w *world) grants(epoch uint64, i int) {
	if by, known := w.granters[epoch]; known && by != i {
		w.t.Errorf("gateways %d and %d grant in epoch %d", by, i, epoch)
	}
	w.granters[epoch] = i
}

func (n *node) link(j int, now time.Time) *linked {
	l := n.links[j]
	if l == nil {
		l = &linked{heard: now}
		n.links[j] = l
	}
	return l
}

// step lets a gateway do what its process does in a tick.
func (n *node) step() {
	w, now := n.w, time.Now()
	if !n.alive || now.Before(n.paused) {
		return
	}
	if len(n.pending) > 0 && w.rng.IntN(2) == 0 {
		next := n.pending[0]
		n.pending = n.pending[1:]
		next()
	}
	for j, other := range w.nodes {
		if j != n.i {
			n.dial(j, other, now)
			n.listen(j, now)
		}
	}
	if n.consul && w.rng.IntN(3) > 0 {
		w.mu.Lock()
		record := w.record
		w.mu.Unlock()
		n.shared.Saw(record)
		n.shared.Confirm(record, now)
	}
	n.sendHeartbeats(now)
	n.look(now)
}

// dial opens this gateway's stream to another one.
func (n *node) dial(j int, other *node, now time.Time) {
	w := n.w
	l := n.link(j, now)
	w.mu.Lock()
	key := [2]int{n.i, j}
	cut, ended := w.apart(n.i, j, now)
	if ended && w.rng.IntN(4) == 0 {
		delete(w.streams, key)
	}
	if w.streams[key] == nil {
		l.up = false
		switch {
		case cut || now.Before(other.paused):
			if l.link == ownership.Gone {
				// Another process may have started there.
				l.link, l.heard, l.process = ownership.Silent, now, 0
			}
		case !other.alive:
			l.link = ownership.Gone
		default:
			w.streams[key] = &pipe{}
			w.mu.Unlock()
			n.hello(j, other, l, now)
			return
		}
	}
	w.mu.Unlock()
}

// hello is both ends' first words on a new stream.
func (n *node) hello(j int, other *node, l *linked, now time.Time) {
	restarted := l.process != 0 && l.process != other.process
	l.process, l.up, l.heard, l.link = other.process, true, now, ownership.Silent
	if restarted {
		n.shared.Gone(other.id)
	}
	n.shared.SendEpoch(other.id)
	back := other.link(n.i, now)
	again := back.process != 0 && back.process != n.process
	back.process, back.acked = n.process, time.Time{}
	if back.link == ownership.Gone {
		back.link, back.heard = ownership.Silent, now
	}
	if again {
		other.shared.Gone(n.id)
	}
	other.shared.Greet(n.id)
}

// listen takes what has come from another gateway, on both streams.
func (n *node) listen(j int, now time.Time) {
	w := n.w
	w.mu.Lock()
	var answered, asked []talk.Record
	if !w.unheard(j, n.i, now) {
		if p := w.streams[[2]int{n.i, j}]; p != nil && w.rng.IntN(4) > 0 {
			answered, p.answer = p.answer, nil
		}
		if p := w.streams[[2]int{j, n.i}]; p != nil && w.rng.IntN(4) > 0 {
			asked, p.ask = p.ask, nil
		}
	}
	w.mu.Unlock()
	l := n.link(j, now)
	if len(answered) > 0 {
		l.heard = now
	}
	for _, records := range [][]talk.Record{answered, asked} {
		for _, r := range records {
			if r.Kind != talk.Heartbeat {
				n.shared.Take(w.nodes[j].id, []talk.Record{r})
				continue
			}
			if r.Heartbeat > 0 {
				l.number, l.hears = r.Heartbeat, nil
				for _, id := range r.Hears {
					l.hears = append(l.hears, ownership.ID(id))
				}
			}
			if at, known := n.sent[r.Heard]; known && r.Heard > 0 {
				l.acked = at
			}
			for _, load := range r.Loads {
				n.shared.Carries(w.nodes[j].id, load)
			}
		}
	}
}

func (n *node) sendHeartbeats(now time.Time) {
	n.heartbeat++
	n.sent[n.heartbeat] = now
	load := n.shared.Loads()
	w := n.w
	var hears []string
	for j, l := range n.links {
		if l.link == ownership.Up {
			hears = append(hears, string(w.nodes[j].id))
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for j := range w.nodes {
		if p := w.streams[[2]int{j, n.i}]; p != nil {
			p.answer = append(p.answer, talk.Record{Kind: talk.Heartbeat, Heartbeat: n.heartbeat, Loads: []talk.Load{load}, Hears: hears})
		}
		if p := w.streams[[2]int{n.i, j}]; p != nil {
			p.ask = append(p.ask, talk.Record{Kind: talk.Heartbeat, Heard: n.link(j, now).number})
		}
	}
}

func (n *node) look(now time.Time) {
	w := n.w
	v := ownership.View{Consul: n.consul || now.Before(n.unheard), Leaving: n.leaving}
	acked := now
	var greet []ownership.ID
	for j, other := range w.nodes {
		if j == n.i {
			continue
		}
		l := n.link(j, now)
		was := l.link
		switch {
		case l.up && now.Sub(l.heard) < ownership.PeerTimeout && now.Sub(l.acked) < ownership.PeerTimeout:
			l.link = ownership.Up
		case l.link == ownership.Up:
			l.link = ownership.Silent
		}
		if l.link == ownership.Up && was != ownership.Up {
			greet = append(greet, other.id)
		}
		registered := other.alive || now.Sub(other.died) < 3*time.Second
		v.Peers = append(v.Peers, ownership.Peer{ID: other.id, Link: l.link, Heard: l.heard, Acked: l.acked, Registered: registered, Unheard: l.process == 0, Leaving: other.leaving && l.link == ownership.Up, Hears: l.hears})
		if l.link != ownership.Gone && l.acked.Before(acked) {
			acked = l.acked
		}
	}
	n.shared.Acked(acked)
	for _, id := range greet {
		n.shared.Greet(id)
	}
	if n.shared.UpdatePeers(v) && len(n.pending) == 0 {
		if n.consul {
			n.claim(now)
		} else {
			n.unheard = time.Time{} // the claim fails
		}
	}
	role, epoch, owner := n.shared.Role()
	if now := fmt.Sprint(role, " of ", owner, " in ", epoch); now != n.was {
		w.note("gateway %d is %s", n.i, now)
		n.was = now
	}
	if role == ownership.Owner {
		w.mu.Lock()
		w.grants(epoch, n.i)
		w.mu.Unlock()
	}
}

func (n *node) claim(sent time.Time) {
	w := n.w
	next, old := n.shared.Next()
	ok := false
	n.pending = []func(){func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if ok = w.record == old; ok {
			w.record = next
		}
	}, func() {
		if ok && w.rng.IntN(10) > 0 { // else the answer is lost
			n.shared.Taken(next.Epoch, sent)
		}
	}}
}

// patient is how long most requests wait for a slot.
const patient = 10 * time.Minute

// request carries one request through a gateway.
func (n *node) request(took time.Duration) {
	w := n.w
	ctx, shared := n.ctx, n.shared
	patience := patient
	if w.rng.IntN(8) == 0 {
		patience = time.Duration(w.rng.IntN(2000)) * time.Millisecond
	}
	w.mu.Lock()
	w.open++
	w.mu.Unlock()
	go func() {
		var p Pass
		err := shared.Enter(ctx, &p, dispatch.Request{Expire: time.Now().Add(patience), Prompt: 100, Output: 10})
		w.mu.Lock()
		if err != nil {
			w.open--
			if ctx.Err() == nil && patience == patient {
				w.t.Errorf("a request is lost: %v", err)
			}
			w.lost++
			w.mu.Unlock()
			return
		}
		id := p.Endpoint.ID
		if w.busy[id]++; w.busy[id] > w.slots {
			w.t.Errorf("replica %s serves %d of %d at gateway %d", id, w.busy[id], w.slots, n.i)
		}
		w.note("gateway %d begins request %d on replica %s, now %d", n.i, p.carried.id, id, w.busy[id])
		w.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(took):
		}
		w.mu.Lock()
		w.busy[id]--
		w.note("gateway %d ends on replica %s, now %d", n.i, id, w.busy[id])
		w.served++
		paused := time.Until(n.paused)
		w.mu.Unlock()
		if paused > 0 {
			time.Sleep(paused)
		}
		if ctx.Err() == nil {
			shared.Leave(&p, dispatch.Served, 0)
		}
		w.mu.Lock()
		w.open--
		w.mu.Unlock()
	}()
}
