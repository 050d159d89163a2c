package peers

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"aliquot/gateway/line"
	"aliquot/internal/dispatch"
	"aliquot/internal/ownership"
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
	end  func()
}

func start(t *testing.T, r *registry, identity Identity) *member {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	o := Options{Self: ownership.ID(address), Address: address, Registry: r, Log: slog.New(slog.DiscardHandler)}
	if identity != nil {
		o.Server, o.Client = Secure(identity)
	}
	m := &member{id: o.Self, hub: New(o)}
	m.line = m.hub.Share("app", line.Options{})
	m.line.Set([]line.Replica{{Address: "r", Replica: dispatch.Replica{ID: "r", Class: "h100", Slots: 2, Weight: 1}}})
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
	deadline := time.Now().Add(30 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
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

// certificates writes a CA and certificates that it signed.
func certificates(t *testing.T, names ...string) map[string]Files {
	t.Helper()
	dir := t.TempDir()
	put := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	template := func(n int64) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(n), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	}
	root, rootKey := template(1), key()
	root.IsCA, root.BasicConstraintsValid, root.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	if err != nil {
		t.Fatal(err)
	}
	ca := put("ca.pem", "CERTIFICATE", der)
	out := map[string]Files{}
	for i, name := range names {
		k := key()
		der, err := x509.CreateCertificate(rand.Reader, template(int64(i+2)), root, k.Public(), rootKey)
		if err != nil {
			t.Fatal(err)
		}
		private, err := x509.MarshalECPrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = Files{Cert: put(fmt.Sprintf("%s.pem", name), "CERTIFICATE", der), Key: put(name+"-key.pem", "EC PRIVATE KEY", private), CA: ca}
	}
	return out
}

// A gateway with a certificate of another CA, or with none, is not heard.
func TestOnlyGatewaysAreHeard(t *testing.T) {
	ours, theirs := certificates(t, "a", "b"), certificates(t, "c")
	r := newRegistry()
	all := []*member{start(t, r, ours["a"]), start(t, r, ours["b"])}
	settled(t, all)
	stranger, bare := start(t, r, theirs["c"]), start(t, r, nil)
	await(t, "the strangers were dialled and refused", func() bool {
		all[0].hub.mu.Lock()
		defer all[0].hub.mu.Unlock()
		return len(all[0].hub.peers) == 3
	})
	time.Sleep(2 * ownership.Silence)
	if n := all[0].hub.Live(); n != 1 {
		t.Errorf("%d gateways are heard, want the one with a certificate", n)
	}
	if stranger.hub.Live()+bare.hub.Live() != 0 {
		t.Error("a stranger hears a gateway")
	}
}
