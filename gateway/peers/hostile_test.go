package peers

import (
	"context"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"

	"aliquot.example/gateway/peers/peertest"
	"aliquot.example/gateway/talk"
	"aliquot.example/internal/dispatch"
	"aliquot.example/internal/ownership"
)

// certificate signs a certificate for a gateway and writes its files.
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

// A stream without a Hello is closed, and holds no resources until its client leaves.
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

// A connection without a stream is closed too.
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

// other is a stream of another gateway that receives nothing.
type other struct {
	grpc.ServerStream
	ctx    context.Context
	frames chan []byte   // frames that it sends
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

// says sends records, and returns when the gateway has received the ones before.
func (o *other) says(records ...talk.Record) {
	o.frames <- talk.Append(nil, talk.Version, records, time.Now())
}

var hello = talk.Record{Kind: talk.Hello, Gateway: "10.0.0.1:7070", Process: 1, MaxVersion: talk.Version}

// opened returns the stream, in a hub, that another gateway opened.
func opened(h *Hub) *stream {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.peers[ownership.ID(hello.Gateway)]; p != nil {
		return p.in
	}
	return nil
}

// A frame without records is valid, even as the first of a stream.
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

// A stream that the same gateway replaces by a newer one ends, although a write to it is blocked.
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

// A stream that ended before its Hello was read does not register its gateway.
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

// A gateway with a certificate of another CA, with an expired one, or with none, is rejected, and
// one log line says why.
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
		said, own string // in the gateways' logs, and in the stranger's
	}{
		{"another authority", certificate(t, theirs, later), "cannot verify the certificate of the other gateway: x509: certificate signed by unknown authority", "signed by unknown authority"},
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

// Certificates expire and are renewed while requests are served: open streams stay, and new ones
// use the new certificates.
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
