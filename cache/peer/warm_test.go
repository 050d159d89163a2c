package peer

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"aliquot.example/cache/certtest"
)

// server is a peer that counts its connections, over TLS.
type server struct {
	address string
	mu      sync.Mutex
	made    int
	asked   chan struct{} // receives for each request
}

func startServer(t *testing.T, files *Files) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{address: l.Addr().String(), asked: make(chan struct{}, 100)}
	if l, err = files.Listen(l); err != nil {
		t.Fatal(err)
	}
	h := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNoContent)
			s.asked <- struct{}{}
		}),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.made++
			}
		},
	}
	t.Cleanup(func() { h.Close() })
	go func() { _ = h.Serve(l) }()
	return s
}

func (s *server) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.made
}

// A request to a peer that is known finds a connection, without a handshake.
func TestAKnownPeerHasAConnection(t *testing.T) {
	ca := certtest.New(t)
	files := &Files{CA: ca.File, ServerName: "aliquot-cache"}
	files.Cert, files.Key = ca.Issue(t, "aliquot-cache")
	first, second := startServer(t, files), startServer(t, files)
	n := &Network{Members: NewMembers("10.0.0.1:1", []string{first.address}), Client: NewClient(files), Scheme: "https"}
	ctx, end := context.WithCancel(t.Context())
	var kept sync.WaitGroup
	kept.Go(func() { n.KeepWarm(ctx) })
	defer kept.Wait()
	defer end()
	<-first.asked
	n.set([]string{first.address, second.address})
	<-second.asked
	for _, s := range []*server{first, second} {
		// The transport puts a connection back after the answer: a request may just miss it.
		for reused := false; !reused; {
			trace := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
				GotConn: func(c httptrace.GotConnInfo) { reused = c.Reused },
			})
			if err := n.alive(trace, s.address); err != nil {
				t.Fatal(err)
			}
		}
		if made := s.connections(); made > 2 {
			t.Errorf("%d connections were made for one request", made)
		}
	}
}

// schedule counts what a node sends to its peers, in the time of a synctest bubble.
type schedule struct {
	mu   sync.Mutex
	sent map[string]int
	down map[string]bool
}

func (s *schedule) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent[r.URL.Host]++
	if s.down[r.URL.Host] {
		return nil, net.ErrClosed
	}
	return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody, Request: r}, nil
}

func (s *schedule) take(peer string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, s.sent[peer] = s.sent[peer], 0
	return n
}

// A connection is used before it can be idle too long, a peer that is away is not tried more
// often than others, and one that has left is let alone.
func TestConnectionsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &schedule{sent: map[string]int{}, down: map[string]bool{"down:1": true}}
		n := &Network{Members: NewMembers("self:1", []string{"up:1", "down:1"}), Client: &http.Client{Transport: s}, Scheme: "https"}
		ctx, end := context.WithCancel(t.Context())
		go n.KeepWarm(ctx)
		time.Sleep(warmSpread)
		synctest.Wait()
		if sent := s.take("up:1"); sent != 1 {
			t.Errorf("%d requests in the first second", sent)
		}
		for range 20 {
			time.Sleep(warmInterval)
			synctest.Wait()
			if sent := s.take("up:1"); sent < 1 || sent > 2 {
				t.Errorf("%d requests in %s", sent, warmInterval)
			}
		}
		s.take("down:1")
		time.Sleep(10 * warmInterval)
		synctest.Wait()
		if sent := s.take("down:1"); sent < 10 || sent > 20 {
			t.Errorf("%d requests to a peer that is away", sent)
		}
		n.set([]string{"down:1"})
		synctest.Wait()
		s.take("up:1")
		time.Sleep(10 * warmInterval)
		synctest.Wait()
		if sent := s.take("up:1") + s.take("self:1"); sent != 0 {
			t.Errorf("%d requests to a peer that has left, or to itself", sent)
		}
		end()
		synctest.Wait()
	})
}

// Peers that hang do not keep the connections to the others from being used.
func TestPeersThatHangAreOnTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &hanging{}
		var peers []string
		for i := range 100 {
			peers = append(peers, fmt.Sprintf("hangs-%d:1", i))
		}
		n := &Network{Members: NewMembers("self:1", []string{"up:1"}), Client: &http.Client{Transport: s}, Scheme: "https"}
		go n.KeepWarm(t.Context())
		time.Sleep(warmSpread)
		n.set(append(peers, "up:1"))
		time.Sleep(20 * warmInterval)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.longest == 0 || s.longest > warmInterval {
			t.Errorf("a connection was idle for %s, want at most %s", s.longest, warmInterval)
		}
	})
}

// hanging are peers of which one answers, and notes for how long its connection was idle.
type hanging struct {
	mu      sync.Mutex
	last    time.Time
	longest time.Duration
}

func (s *hanging) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host != "up:1" {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.last.IsZero() {
		s.longest = max(s.longest, time.Since(s.last))
	}
	s.last = time.Now()
	return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody, Request: r}, nil
}

// A connection that is kept does not outlive the trust in its peer.
func TestAConnectionEndsWithTheTrustInItsPeer(t *testing.T) {
	ca, next := certtest.New(t), certtest.New(t)
	served := &Files{CA: ca.File, ServerName: "aliquot-cache"}
	served.Cert, served.Key = ca.Issue(t, "aliquot-cache")
	files := *served
	files.CA = filepath.Join(t.TempDir(), "ca.pem")
	trust := func(a *certtest.Authority) {
		text, err := os.ReadFile(a.File)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(files.CA, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	trust(ca)
	s := startServer(t, served)
	n := &Network{Members: NewMembers("10.0.0.1:1", nil), Client: NewClient(&files), Files: &files, Scheme: "https"}
	for range 2 {
		if err := n.alive(t.Context(), s.address); err != nil {
			t.Fatal(err)
		}
	}
	trust(next)
	if err := n.alive(t.Context(), s.address); err == nil {
		t.Error("a peer whose CA is not trusted any more answers")
	}
	before := s.connections()
	if err := n.alive(t.Context(), s.address); err == nil || s.connections() == before {
		t.Errorf("its connection is used again: %v", err)
	}
	trust(ca)
	if err := n.alive(t.Context(), s.address); err != nil {
		t.Error(err)
	}
}

// A large cluster does not make each node keep a connection to all others.
func TestConnectionsAreBounded(t *testing.T) {
	var peers []string
	for i := range 500 {
		peers = append(peers, net.JoinHostPort("10.0.0.1", string(rune('a'+i%26))+string(rune('a'+i/26))))
	}
	chosen := map[string]int{}
	for _, self := range peers {
		n := &Network{Members: NewMembers(self, peers)}
		some := n.warmed()
		if len(some) != warmPeers {
			t.Fatalf("%d peers", len(some))
		}
		for _, p := range some {
			chosen[p]++
		}
	}
	for p, n := range chosen {
		if n > 3*warmPeers {
			t.Errorf("%s is chosen by %d of %d nodes", p, n, len(peers))
		}
	}
}
