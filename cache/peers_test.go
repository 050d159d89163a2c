package cache

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aliquot.example/cache/certtest"
	"aliquot.example/cache/config"
	"aliquot.example/cache/hubtest"
	"aliquot.example/e2e/consultest"
	"aliquot.example/internal/cacheapi"
)

// Caches find each other in Consul and speak TLS with certificates on both sides: the
// second node starts from the first, with a gated model too, whose token goes along.
func TestPeersThroughConsulWithTLS(t *testing.T) {
	server, err := consultest.Start(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	hub := startHub(t)
	qwen(hub)
	hub.Set(func(h *hubtest.Hub) { h.Token = "secret" })
	ca := certtest.New(t)
	var all []*node
	for range 3 {
		conf := settings(t, hub.URL)
		conf.Consul = config.Consul{Address: server.Address}
		address := free(t)
		conf.Peer = &config.Peer{Listen: address, Advertise: address, Service: "aliquot-cache", Register: true, CA: ca.File, Name: "aliquot-cache"}
		conf.Peer.Cert, conf.Peer.Key = ca.Issue(t, "aliquot-cache")
		all = append(all, begin(t, conf))
	}
	for _, n := range all {
		n.log.await(t, 0, "msg=peers count=3")
	}
	ask := cacheapi.Fetch{Model: model, Token: "secret"}
	if _, err := all[0].fetched(t.Context(), ask); err != nil {
		t.Fatal(err)
	}
	read := hub.Read()
	m, err := all[1].fetched(t.Context(), ask)
	if err != nil {
		t.Fatal(err)
	}
	// What the first node owns it gives, and what the third owns it read for the first.
	if again := hub.Read() - read; again >= int64(len(big)) || m.Peers == 0 {
		t.Errorf("%d of %d bytes were read again; %+v", again, len(big), m)
	}
	three := all[0].log.await(t, 0, "msg=peers count=3")
	all[2].Close()
	all[0].log.await(t, three, "msg=peers count=2")
	if peers := all[0].Status().Peers; len(peers) != 2 {
		t.Errorf("after one has gone the peers are %v", peers)
	}
}

// Whoever has no certificate of the caches' CA, or one for another name, gets nothing.
func TestStrangersAreRefused(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	ca, other := certtest.New(t), certtest.New(t)
	conf := settings(t, hub.URL)
	address := free(t)
	conf.Peer = &config.Peer{Listen: address, Advertise: address, CA: ca.File, Name: "aliquot-cache"}
	conf.Peer.Cert, conf.Peer.Key = ca.Issue(t, "aliquot-cache")
	n := begin(t, conf)
	n.want(t)
	id := "sha256-" + hubtest.SHA256(big)
	ask := func(name string, from *certtest.Authority) (int, error) {
		stranger := settings(t, hub.URL)
		stranger.Peer = &config.Peer{Listen: free(t), Advertise: "10.0.0.1:1", CA: ca.File, Name: "aliquot-cache"}
		stranger.Peer.Cert, stranger.Peer.Key = from.Issue(t, name)
		d := &Daemon{conf: stranger, log: slog.New(slog.DiscardHandler)}
		client := d.newNetwork().Client
		client.Timeout = 10 * time.Second
		res, err := client.Post("https://"+address+"/v1/chunk", "application/json", strings.NewReader(fmt.Sprintf(`{"object":{"id":%q,"size":%d},"chunk":0,"offset":0}`, id, len(big))))
		if err != nil {
			return 0, err
		}
		res.Body.Close()
		return res.StatusCode, nil
	}
	if code, err := ask("aliquot-cache", ca); err != nil || code != http.StatusOK {
		t.Errorf("a cache is refused: %d, %v", code, err)
	}
	if code, err := ask("another", ca); err == nil {
		t.Errorf("another name: %d", code)
	}
	if code, err := ask("aliquot-cache", other); err == nil {
		t.Errorf("another CA: %d", code)
	}
	if res, err := http.Get("http://" + address + "/v1/chunk"); err == nil && res.StatusCode != http.StatusBadRequest {
		t.Errorf("without TLS: %s", res.Status)
	}
}

// Web servers and files are origins too.
func TestOtherOrigins(t *testing.T) {
	hub := startHub(t)
	share := t.TempDir()
	if err := os.MkdirAll(filepath.Join(share, "m", "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string][]byte{"m/model.bin": big, "m/sub/config.json": []byte("{}")} {
		if err := os.WriteFile(filepath.Join(share, name), body, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(share, "m", "out")); err != nil {
		t.Fatal(err)
	}
	conf := settings(t, hub.URL)
	conf.Files = share
	n := begin(t, conf)
	if _, err := n.fetched(t.Context(), cacheapi.Fetch{Model: "file://" + share + "/m"}); err == nil {
		t.Error("a link out of the share is followed")
	}
	if err := os.Remove(filepath.Join(share, "m", "out")); err != nil {
		t.Fatal(err)
	}
	m, err := n.fetched(t.Context(), cacheapi.Fetch{Model: "file://" + share + "/m"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(m.Path, "files", "model.bin")); err != nil || !bytes.Equal(got, big) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := n.fetched(t.Context(), cacheapi.Fetch{Model: "file:///etc"}); err == nil {
		t.Error("a directory outside of the share is read")
	}
	web, stop := webServer(t, share)
	defer stop()
	m, err = n.fetched(t.Context(), cacheapi.Fetch{Model: web + "/m/model.bin"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(m.Path, "files", "model.bin")); err != nil || !bytes.Equal(got, big) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// A web server that says an impossible size breaks one model and nothing else.
func TestAnImpossibleSize(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "4611686018427387904")
	}))
	defer web.Close()
	n := begin(t, settings(t, "http://127.0.0.1:1"))
	for range 2 {
		m, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: web.URL + "/model.bin", Wait: 30})
		if err != nil || m.State != cacheapi.Failed || !m.Final || !strings.Contains(m.Error, "no room") {
			t.Errorf("%+v, %v", m, err)
		}
		conf := n.conf
		n.Close()
		n = begin(t, conf)
	}
}
