package cache

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aliquot.example/cache/config"
	"aliquot.example/cache/hubtest"
)

// endless is a body without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// serveWithLimit serves on a stallListener, and closes ended when an answer has ended.
func serveWithLimit(t *testing.T, limit time.Duration, answer http.HandlerFunc) (address string, ended chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended = make(chan struct{})
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		answer(w, r)
	})}
	t.Cleanup(func() { s.Close() })
	go func() { _ = s.Serve(stallListener{l, limit}) }()
	return l.Addr().String(), ended
}

// A client that never reads loses its connection, whether the bytes come from memory or
// from a file.
func TestAClientThatNeverReads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	writeFile(t, path, "")
	if err := os.Truncate(path, 4<<30); err != nil {
		t.Fatal(err)
	}
	for what, answer := range map[string]http.HandlerFunc{
		"memory":  func(w http.ResponseWriter, _ *http.Request) { _, _ = io.Copy(w, endless{}) },
		"a file":  func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, path) },
		"at once": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 64<<20)) },
	} {
		address, ended := serveWithLimit(t, 100*time.Millisecond, answer)
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			t.Errorf("%s: the answer still waits for its client", what)
		}
	}
}

// So do clients of a cache.
func TestAClientOfTheEndpointThatNeverReads(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	conf := settings(t, hub.URL)
	conf.ClientStall = 200 * time.Millisecond
	n := begin(t, conf)
	c, err := net.Dial("tcp", strings.TrimPrefix(n.hfURL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(c, "GET /Qwen/Qwen3/resolve/main/model.safetensors HTTP/1.1\r\nHost: x\r\n\r\n")
	n.log.await(t, 0, "cannot send the whole file")
}

// A client that does not send what it announced loses its connection too, at an endpoint and as a
// peer.
func TestAClientThatDoesNotEndItsRequest(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	conf := settings(t, hub.URL)
	conf.ClientStall = 200 * time.Millisecond
	conf.Peer = &config.Peer{Listen: free(t), Insecure: true}
	conf.Peer.Advertise = conf.Peer.Listen
	n := begin(t, conf)
	n.want(t)
	endpoint := strings.TrimPrefix(n.hfURL, "http://")
	for address, path := range map[string]string{endpoint: "/api/models/Qwen/Qwen3/paths-info/main", conf.Peer.Listen: "/v1/chunk"} {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", path)
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("%s: the connection goes on: %v", path, err)
		}
	}
}

// An answer that waits for its origin longer than a client may take goes on.
func TestAnAnswerMayWaitForItsOrigin(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	stall := make(chan struct{})
	hub.Set(func(h *hubtest.Hub) { h.Stall = stall })
	conf := settings(t, hub.URL)
	// Once the bytes come, a busy machine may take as long for a piece.
	conf.ClientStall = 3 * time.Second
	n := begin(t, conf)
	time.AfterFunc(conf.ClientStall+time.Second, func() { close(stall) })
	if res, body := get(t, "GET", n.hfURL+"/Qwen/Qwen3/resolve/main/model.safetensors"); res.StatusCode != http.StatusOK || !bytes.Equal(body, big) {
		t.Errorf("%s, %d bytes", res.Status, len(body))
	}
}

// A connection with a limit sends all of an answer, in pieces or not.
func TestAConnectionWithALimitSendsAll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	writeFile(t, path, string(big))
	for what, answer := range map[string]http.HandlerFunc{
		"memory": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(big) },
		"a file": func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, path) },
		"a pipe": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.Copy(w, bytes.NewBuffer(big)) },
	} {
		address, _ := serveWithLimit(t, time.Minute, answer)
		if res, body := get(t, "GET", "http://"+address); res.StatusCode != http.StatusOK || !bytes.Equal(body, big) {
			t.Errorf("%s: %s, %d bytes", what, res.Status, len(body))
		}
	}
}
