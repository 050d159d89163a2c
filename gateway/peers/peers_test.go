package peers

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"aliquot.example/gateway/line"
	"aliquot.example/gateway/talk"
	"aliquot.example/internal/dispatch"
	"aliquot.example/internal/ownership"
)

// registry is an in-memory Registry for gateways in one process.
type registry struct {
	mu      sync.Mutex
	members []Gateway
	records map[string]ownership.Record
	changed chan struct{}
}

func newRegistry() *registry {
	return &registry{records: map[string]ownership.Record{}, changed: make(chan struct{})}
}

func (r *registry) change(do func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	do()
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *registry) each(ctx context.Context, tell func()) {
	for {
		r.mu.Lock()
		changed := r.changed
		r.mu.Unlock()
		tell()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (r *registry) Gateways(ctx context.Context, set func([]Gateway)) {
	r.each(ctx, func() {
		r.mu.Lock()
		all := append([]Gateway(nil), r.members...)
		r.mu.Unlock()
		set(all)
	})
}

func (r *registry) Records(ctx context.Context, set func(map[string]ownership.Record, bool)) {
	r.each(ctx, func() {
		all, _ := r.Read(ctx)
		set(all, true)
	})
}

func (r *registry) Read(context.Context) (map[string]ownership.Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.records), nil
}

func (r *registry) Swap(_ context.Context, service string, old, next ownership.Record) (ok bool, err error) {
	r.change(func() {
		if ok = r.records[service] == old; ok {
			r.records[service] = next
		}
	})
	return ok, nil
}

// member is one gateway under test.
type member struct {
	id   ownership.ID
	hub  *Hub
	line *line.Shared
	log  *logged
	end  func()
}

// logged collects what a gateway logs.
type logged struct {
	mu   sync.Mutex
	text []string
}

func (l *logged) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, string(line))
	return len(line), nil
}

// lines returns the log lines about a gateway that contain a text.
func (l *logged) lines(of ownership.ID, text string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.text {
		if strings.Contains(line, string(of)) && strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

func start(t *testing.T, r *registry, identity Identity) *member {
	t.Helper()
	return startAs(t, r, identity, talk.Version)
}

// startAs starts a gateway with a protocol version.
func startAs(t *testing.T, r *registry, identity Identity, version uint64) *member {
	t.Helper()
	return startWith(t, r, identity, version, "app")
}

// slots are the replicas of every service.
var slots = []line.Replica{{Address: "r", Replica: dispatch.Replica{ID: "r", Class: "h100", Slots: 2, Weight: 1}}}

// startWith starts a gateway that has one service.
func startWith(t *testing.T, r *registry, identity Identity, version uint64, service string) *member {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	o := Options{Self: ownership.ID(address), Address: address, Registry: r}
	if identity != nil {
		o.Security = Secure(identity)
	}
	m := &member{id: o.Self, log: &logged{}}
	o.Log = slog.New(slog.NewTextHandler(m.log, nil))
	m.hub = New(o)
	m.hub.version = version
	m.line = m.hub.Share(service, line.Options{})
	m.line.Set(slots)
	if err := m.hub.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		m.hub.Run(ctx)
		close(ended)
	}()
	m.end = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	t.Cleanup(m.end)
	r.change(func() { r.members = append(r.members, Gateway{m.id, true}) })
	return m
}

func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline, tick := time.After(30*time.Second), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// settled returns the owner and the others once all agree.
func settled(t *testing.T, all []*member) (owner *member, others []*member) {
	t.Helper()
	await(t, "one owner that all follow", func() bool {
		owner, others = nil, nil
		for _, m := range all {
			switch role, _, of := m.line.Role(); {
			case role == ownership.Owner:
				owner = m
			case role == ownership.Member && of != "":
				others = append(others, m)
			}
		}
		return owner != nil && len(others) == len(all)-1
	})
	return owner, others
}

func enter(t *testing.T, m *member) *line.Pass {
	t.Helper()
	var p line.Pass
	if err := m.line.Enter(t.Context(), &p, dispatch.Request{Expire: time.Now().Add(time.Minute)}); err != nil {
		t.Fatal(err)
	}
	return &p
}

func TestGatewaysShareOneQueue(t *testing.T) {
	r := newRegistry()
	all := []*member{start(t, r, nil), start(t, r, nil), start(t, r, nil)}
	owner, others := settled(t, all)
	a, b := enter(t, others[0]), enter(t, others[1])
	waits := make(chan *line.Pass)
	go func() { waits <- enter(t, owner) }()
	await(t, "a request waits at the owner, as both slots are taken elsewhere", func() bool { return owner.line.State().Queued == 1 })
	others[0].line.Leave(a, dispatch.Served, 0)
	c := <-waits
	// When the owner's process ends, its requests are freed and the others continue.
	owner.end()
	left, _ := settled(t, others)
	d := enter(t, left)
	for _, p := range []*line.Pass{b, d} {
		if p.Endpoint == nil || p.Endpoint.ID != "r" {
			t.Errorf("no replica: %+v", p.Endpoint)
		}
	}
	_ = c
	next := make(chan *line.Pass)
	go func() { next <- enter(t, others[0]) }()
	others[1].line.Leave(b, dispatch.Served, 0)
	<-next
}

// Gateways of this protocol version and the next share a queue, and either can take over ownership.
// A gateway that is two versions ahead is rejected, and both ends say why.
func TestTwoVersionsShareOneQueue(t *testing.T) {
	r := newRegistry()
	all := []*member{start(t, r, nil), start(t, r, nil), startAs(t, r, nil, talk.Version+1), startAs(t, r, nil, talk.Version+1)}
	owner := share(t, all)
	owner.end()
	left := slices.DeleteFunc(all, func(m *member) bool { return m == owner })
	share(t, left)
	far := startAs(t, r, nil, talk.Version+2)
	for _, m := range left {
		if m.hub.version != talk.Version {
			continue
		}
		for _, at := range []struct{ of, from *member }{{m, far}, {far, m}} {
			await(t, "the reason", func() bool {
				return len(at.of.log.lines(at.from.id, "update gateways one release at a time")) > 0
			})
		}
	}
}

// A gateway without a service takes no part in its ownership until it has the service.
func TestAGatewayWithoutTheService(t *testing.T) {
	r := newRegistry()
	all := []*member{start(t, r, nil), start(t, r, nil)}
	other := startWith(t, r, nil, talk.Version, "another")
	for _, m := range all {
		await(t, "all hear each other", func() bool { return m.hub.Live() == 2 })
	}
	share(t, all)
	other.line = other.hub.Share("app", line.Options{})
	other.line.Set(slots)
	share(t, append(all, other))
}

// share makes gateways take turns with the slots, and returns the owner.
func share(t *testing.T, all []*member) *member {
	t.Helper()
	owner, others := settled(t, all)
	var held []*line.Pass
	for _, m := range all[:2] { // both slots
		held = append(held, enter(t, m))
	}
	waits := make(chan *line.Pass)
	last := others[len(others)-1]
	go func() { waits <- enter(t, last) }()
	await(t, "a request waits for the slots of the others", func() bool { return last.line.State().Queued == 1 })
	all[0].line.Leave(held[0], dispatch.Served, 0)
	last.line.Leave(<-waits, dispatch.Served, 0)
	all[1].line.Leave(held[1], dispatch.Served, 0)
	return owner
}
