package cache

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"aliquot.example/cache/certtest"
	"aliquot.example/cache/config"
	"aliquot.example/cache/hubtest"
	"aliquot.example/cache/snapshots"
	"aliquot.example/internal/cacheapi"
)

func snapshot(t *testing.T, n *node, key string) ([]byte, int) {
	t.Helper()
	body, err := n.api.Snapshot(t.Context(), key)
	var refused *cacheapi.Error
	if errors.As(err, &refused) {
		return nil, refused.Status
	}
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	got, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return got, http.StatusOK
}

func status(err error) int {
	var refused *cacheapi.Error
	if errors.As(err, &refused) {
		return refused.Status
	}
	return 0
}

// What one node compiled another finds, once published it stays as it is, and it outlives
// a restart. Without TLS it stays on its node.
func TestSnapshotsAreShared(t *testing.T) {
	hub := startHub(t)
	ca := certtest.New(t)
	key, other := strings.Repeat("a1", 32), strings.Repeat("b2", 32)
	archive := hubtest.Bytes(7, 3<<20)
	for _, insecure := range []bool{false, true} {
		var all []*node
		known := []string{free(t), free(t), free(t)}
		for i := range 2 { // the third is away
			conf := settings(t, hub.URL)
			conf.Peer = &config.Peer{Listen: known[i], Advertise: known[i], Known: known, CA: ca.File, Name: "aliquot-cache", Insecure: insecure}
			conf.Peer.Cert, conf.Peer.Key = ca.Issue(t, "aliquot-cache")
			all = append(all, begin(t, conf))
		}
		if _, code := snapshot(t, all[0], key); code != http.StatusNotFound {
			t.Fatalf("nothing is there, and the answer is %d", code)
		}
		if err := all[0].api.Publish(t.Context(), key, cacheapi.Scope("default", "a/b"), bytes.NewReader(archive), int64(len(archive))); err != nil {
			t.Fatal(err)
		}
		if err := all[0].api.Publish(t.Context(), key, "", strings.NewReader("poison"), 6); status(err) != http.StatusConflict {
			t.Errorf("a second snapshot of the key: %v", err)
		}
		got, code := snapshot(t, all[1], key)
		if insecure {
			if code != http.StatusNotFound {
				t.Errorf("without TLS the other node answers %d", code)
			}
			if res, err := http.Get("http://" + known[0] + "/v1/compiled/" + key); err != nil || res.StatusCode != http.StatusNotFound {
				t.Errorf("without TLS a peer gets %v, %v", res, err)
			}
			continue
		}
		if code != http.StatusOK || !bytes.Equal(got, archive) {
			t.Fatalf("the other node answers %d with %d bytes", code, len(got))
		}
		if _, code := snapshot(t, all[1], other); code != http.StatusNotFound {
			t.Errorf("another key: %d", code)
		}
		all[0].Close()
		conf := all[1].conf
		all[1].Close()
		again := begin(t, conf)
		if got, code := snapshot(t, again, key); code != http.StatusOK || !bytes.Equal(got, archive) {
			t.Errorf("after a restart: %d with %d bytes", code, len(got))
		}
	}
}

// A transfer that breaks off, a wrong key and a snapshot without room leave nothing.
func TestSnapshotsThatAreNone(t *testing.T) {
	conf := settings(t, startHub(t).URL)
	conf.Capacity = 1 << 20
	n := begin(t, conf)
	key := strings.Repeat("a1", 32)
	for what, c := range map[string]struct {
		key  string
		body io.Reader
		size int64
		code int
	}{
		"a name that leads elsewhere": {"..%2f..%2fx", strings.NewReader("x"), 1, http.StatusBadRequest},
		"nothing":                     {key, strings.NewReader(""), 0, http.StatusBadRequest},
		"too large":                   {key, bytes.NewReader(make([]byte, 2<<20)), 2 << 20, http.StatusInsufficientStorage},
		"too short":                   {key, strings.NewReader("x"), 5, 0},
	} {
		if err := n.api.Publish(t.Context(), c.key, "", c.body, c.size); err == nil || status(err) != c.code {
			t.Errorf("%s: %v, want %d", what, err, c.code)
		}
	}
	if s := n.Status(); s.Objects != 0 {
		t.Errorf("%d objects", s.Objects)
	}
	if _, code := snapshot(t, n, key); code != http.StatusNotFound {
		t.Errorf("answered with %d", code)
	}
}

// A peer that begins to send a snapshot and then says nothing more is left for the next one.
func TestAPeerThatStopsInASnapshot(t *testing.T) {
	n := begin(t, settings(t, startHub(t).URL))
	key, archive := strings.Repeat("a1", 32), hubtest.Bytes(7, 1<<20)
	peer := func(sent int) *httptest.Server {
		s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(archive)))
			_, _ = w.Write(archive[:sent])
			if r.Method == http.MethodGet && sent < len(archive) {
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			}
		}))
		t.Cleanup(s.Close)
		return s
	}
	hangs, sends := peer(1000), peer(len(archive))
	pool := x509.NewCertPool()
	pool.AddCert(hangs.Certificate())
	pool.AddCert(sends.Certificate())
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	t.Cleanup(client.CloseIdleConnections)
	for _, last := range []*httptest.Server{hangs, sends} {
		c := &snapshots.Cache{
			Store: n.store, Log: n.Daemon.log, Client: client, Count: func(string) {}, Stall: 100 * time.Millisecond,
			Peers: func() (string, []string) {
				return "", []string{strings.TrimPrefix(hangs.URL, "https://"), strings.TrimPrefix(last.URL, "https://")}
			},
		}
		if err := c.Fetch(t.Context(), []string{key}); (err == nil) != (last == sends) {
			t.Errorf("%v", err)
		}
	}
	if n.store.View(snapshots.View(key)) == "" || !strings.Contains(n.log.String(), "sent no data for too long") {
		t.Error("the snapshot is not here, or nothing is said of the peer")
	}
}
