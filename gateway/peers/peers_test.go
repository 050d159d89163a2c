package peers

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"

	"aliquot.example/gateway/line"
	"aliquot.example/gateway/peers/peertest"
	"aliquot.example/gateway/talk"
	"aliquot.example/internal/dispatch"
	"aliquot.example/internal/ownership"
)

// registry is what Consul holds, for gateways in one process.
type registry struct {
	mu      sync.Mutex
	members []Member
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

func (r *registry) Members(ctx context.Context, set func([]Member)) {
	r.each(ctx, func() {
		r.mu.Lock()
		all := append([]Member(nil), r.members...)
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

// logged is what a gateway has logged.
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

// lines are those about a gateway that hold a text.
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

// startAs starts a gateway that speaks a version.
func startAs(t *testing.T, r *registry, identity Identity, version uint64) *member {
	t.Helper()
	return startWith(t, r, identity, version, "app")
}

// slots are the replicas of every service.
var slots = []line.Replica{{Address: "r", Replica: dispatch.Replica{ID: "r", Class: "h100", Slots: 2, Weight: 1}}}

// startWith starts one that has a service.
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
	r.change(func() { r.members = append(r.members, Member{m.id, true}) })
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
	// The end of the owner's process frees what it carries; the others go on.
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

// certificate has an authority sign one for a gateway, in files of the test.
func certificate(t *testing.T, a *peertest.Authority, until time.Time) Files {
	t.Helper()
	f, err := a.Write(t.TempDir(), "gateway", until)
	if err != nil {
		t.Fatal(err)
	}
	return Files(f)
}

func authority(t *testing.T) *peertest.Authority {
	t.Helper()
	a, err := peertest.New()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// A stream on which nobody says who it is ends, and holds nothing until its client leaves.
func TestAStreamWithoutAHelloEnds(t *testing.T) {
	m := start(t, newRegistry(), nil)
	conn, err := grpc.NewClient("passthrough:///"+string(m.id), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(codec{})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	client, err := conn.NewStream(ctx, &talks, method)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.RecvMsg(&frame{}); err != io.EOF {
		t.Errorf("the stream ended with %v, want its end", err)
	}
}

// So does a connection on which nobody opens a stream.
func TestAConnectionWithoutAStreamEnds(t *testing.T) {
	m := start(t, newRegistry(), nil)
	conn, err := grpc.NewClient("passthrough:///"+string(m.id), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	conn.Connect()
	for ready := false; ; {
		state := conn.GetState()
		if ready && state != connectivity.Ready {
			return
		}
		ready = ready || state == connectivity.Ready
		if !conn.WaitForStateChange(ctx, state) {
			t.Fatalf("the connection is still %s", state)
		}
	}
}

// other is a stream of another gateway that takes nothing.
type other struct {
	grpc.ServerStream
	ctx    context.Context
	frames chan []byte   // what it sends
	wrote  chan struct{} // closed by the first write to it
	once   sync.Once
}

func newOther(ctx context.Context) *other {
	return &other{ctx: ctx, frames: make(chan []byte), wrote: make(chan struct{})}
}

func (o *other) Context() context.Context { return o.ctx }

func (o *other) SendMsg(any) error {
	o.once.Do(func() { close(o.wrote) })
	select {}
}

func (o *other) RecvMsg(m any) error {
	b, ok := <-o.frames
	if !ok {
		return io.EOF
	}
	m.(*frame).b = b
	return nil
}

// says sends records, and returns when the gateway has taken those before.
func (o *other) says(records ...talk.Record) {
	o.frames <- talk.Append(nil, talk.Version, records, time.Now())
}

var hello = talk.Record{Kind: talk.Hello, Gateway: "10.0.0.1:7070", Process: 1, Speaks: talk.Version}

// opened is the stream that the gateway of hello opened, as a hub knows it.
func opened(h *Hub) *stream {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.peers[ownership.ID(hello.Gateway)]; p != nil {
		return p.in
	}
	return nil
}

// A frame without a record says nothing, also as the first of a stream.
func TestAFrameMayBeEmpty(t *testing.T) {
	h := New(Options{Self: "a", Log: slog.New(slog.DiscardHandler)})
	o := newOther(t.Context())
	go h.serve(o)
	o.frames <- nil
	o.says()
	o.says(hello)
	o.says()
	if opened(h) == nil {
		t.Error("the gateway is not known")
	}
	close(o.frames)
}

// A stream that a newer one of the same gateway replaces ends, although a write to it waits.
func TestAStreamEndsWhoseOtherEndTakesNothing(t *testing.T) {
	h := New(Options{Self: "a", Log: slog.New(slog.DiscardHandler)})
	first, second := newOther(t.Context()), newOther(t.Context())
	ended := make(chan struct{})
	go func() { h.serve(first); close(ended) }()
	first.says(hello)
	<-first.wrote
	go h.serve(second)
	second.says(hello)
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Error("the first stream goes on")
	}
	close(first.frames)
	close(second.frames)
}

// A gateway whose stream has ended before its first words were read is not held to be there.
func TestAHelloMayComeTooLate(t *testing.T) {
	h := New(Options{Self: "a", Log: slog.New(slog.DiscardHandler)})
	ctx, leave := context.WithCancel(t.Context())
	leave()
	o := newOther(ctx)
	if err := h.serve(o); err != nil {
		t.Fatal(err)
	}
	o.says(hello)
	o.says()
	if opened(h) != nil {
		t.Error("its stream is held to be open")
	}
	close(o.frames)
}

// A gateway with a certificate of another CA, with one that has expired, or with none, is
// not heard, and one line says why.
func TestOnlyGatewaysAreHeard(t *testing.T) {
	later := time.Now().Add(time.Hour)
	ours, theirs := authority(t), authority(t)
	r := newRegistry()
	all := []*member{start(t, r, certificate(t, ours, later)), start(t, r, certificate(t, ours, later))}
	settled(t, all)
	for _, m := range all {
		await(t, "both hear each other", func() bool { return m.hub.Live() == 1 })
	}
	for _, c := range []struct {
		what      string
		identity  Identity
		said, own string // in the log of the gateways, and of the stranger
	}{
		{"another authority", certificate(t, theirs, later), "certificate of the other gateway is refused: x509: certificate signed by unknown authority", "signed by unknown authority"},
		{"expired", certificate(t, ours, time.Now().Add(-time.Second)), "the certificate of the other gateway expired at ", "the certificate of this gateway expired at "},
		{"none", nil, "first record does not look like a TLS handshake", ""},
	} {
		stranger := start(t, r, c.identity)
		for _, m := range all {
			await(t, c.what+" is refused", func() bool { return len(m.log.lines(stranger.id, c.said)) > 0 })
			if n := m.hub.Live(); n != 1 {
				t.Errorf("%s: %d gateways are heard, want the one with a certificate", c.what, n)
			}
			await(t, c.what+" says why", func() bool { return len(stranger.log.lines(m.id, c.own)) > 0 })
		}
		if stranger.hub.Live() != 0 {
			t.Errorf("%s: a stranger hears a gateway", c.what)
		}
		stranger.end()
		for _, m := range all {
			if n := len(m.log.lines(stranger.id, c.said)); n != 1 {
				t.Errorf("%s: said in %d lines: %v", c.what, n, m.log.lines(stranger.id, c.said))
			}
		}
	}
}

// Certificates expire and are renewed while requests are served: the streams that are open
// stay, and new ones have the new certificates.
func TestCertificatesAreRenewed(t *testing.T) {
	a, r := authority(t), newRegistry()
	expires := time.Now().Add(2 * time.Second)
	var all []*member
	var files []Files
	for range 3 {
		f := certificate(t, a, expires)
		files, all = append(files, f), append(all, start(t, r, f))
	}
	_, others := settled(t, all)
	var served atomic.Int64
	done, stop := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	for _, m := range all {
		wait.Go(func() {
			for done.Err() == nil {
				m.line.Leave(enter(t, m), dispatch.Served, 0)
				served.Add(1)
			}
		})
	}
	goOn := func(what string) {
		t.Helper()
		before := served.Load()
		await(t, what, func() bool { return served.Load() > before+100 })
	}
	await(t, "the certificates expire", func() bool { return time.Now().After(expires) })
	goOn("requests are served with expired certificates on open streams")
	for _, f := range files {
		if _, err := a.Write(filepath.Dir(f.Cert), "gateway", time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	// New streams.
	for _, m := range others {
		m.hub.mu.Lock()
		for _, p := range m.hub.peers {
			p.out.close()
		}
		m.hub.mu.Unlock()
	}
	settled(t, all)
	goOn("requests are served with renewed certificates")
	stop()
	wait.Wait()
}

// Gateways of this version and of the next one share a queue, and the next owner takes it
// over from either. One that is two versions ahead is refused, and both ends say why.
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

// A gateway that does not serve a service has no say in it, until it serves it.
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

// share has gateways take turns with the slots, and returns the owner.
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
