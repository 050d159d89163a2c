package control_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"aliquot.example/gateway/config"
	"aliquot.example/gateway/control"
	"aliquot.example/gateway/peers/peertest"
)

// mesh answers as a Consul agent does for certificates, whose shortest life in Consul is an
// hour.
type mesh struct {
	mu        sync.Mutex
	authority *peertest.Authority
	until     time.Time
	hangs     bool
}

func (m *mesh) set(do func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	do()
}

func (m *mesh) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	hangs, a, until := m.hangs, m.authority, m.until
	m.mu.Unlock()
	if hangs {
		<-r.Context().Done()
		return
	}
	var answer any
	switch r.URL.Path {
	case "/v1/agent/connect/ca/leaf/gateways":
		cert, key, err := a.Sign(until, "spiffe://test.consul/ns/default/dc/dc1/svc/gateways")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		answer = map[string]any{"CertPEM": string(cert), "PrivateKeyPEM": string(key)}
	case "/v1/agent/connect/ca/roots":
		answer = map[string]any{"Roots": []any{map[string]any{"RootCert": string(a.Root())}}}
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// The last certificate of an agent that does not answer is used until it expires; one that
// answers gives the certificates of the moment.
func TestCertificatesOfAnAgentThatHangs(t *testing.T) {
	authority := func() *peertest.Authority {
		a, err := peertest.New()
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	m := &mesh{authority: authority(), until: time.Now().Add(time.Hour)}
	server := httptest.NewServer(m)
	t.Cleanup(server.Close)
	c := &config.Consul{Address: server.URL, Service: "gateways"}
	client, err := control.NewConsul(c)
	if err != nil {
		t.Fatal(err)
	}
	i := &control.Identity{Client: client, Config: c}
	ctx := t.Context()
	first, err := i.Certificate(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Check(first.Leaf); err != nil {
		t.Error(err)
	}
	roots, err := i.Roots(ctx, false)
	if err != nil {
		t.Fatal(err)
	}

	m.set(func() { m.hangs = true })
	if again, err := i.Certificate(ctx); err != nil || again != first {
		t.Errorf("while the agent hangs: %v, the certificate of before: %t", err, again == first)
	}
	if again, err := i.Roots(ctx, false); err != nil || again != roots {
		t.Errorf("while the agent hangs: %v, the roots of before: %t", err, again == roots)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := i.Roots(ended, true); err == nil {
		t.Error("fresh roots of an agent that hangs")
	}

	expires := time.Now().Add(time.Second)
	m.set(func() { m.hangs, m.authority, m.until = false, authority(), expires })
	renewed, err := i.Certificate(ctx)
	if err != nil || renewed == first {
		t.Fatalf("the certificate of the moment: %v, the one of before: %t", err, renewed == first)
	}
	if fresh, err := i.Roots(ctx, false); err != nil || fresh.Equal(roots) {
		t.Errorf("the roots of the moment: %v, those of before: %t", err, fresh.Equal(roots))
	}
	m.set(func() { m.hangs = true })
	await(t, time.Minute, "the certificate expires", func() bool { return time.Now().After(expires) })
	if _, err := i.Certificate(ended); err == nil {
		t.Error("a certificate that has expired is used")
	}
}
