package cache

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aliquot.example/cache/config"
	"aliquot.example/cache/fetch"
	"aliquot.example/cache/hubtest"
	"aliquot.example/internal/blob"
	"aliquot.example/internal/cacheapi"
)

const model = "hf://Qwen/Qwen3"

// want asks for the model's large file and compares it.
func (n *node) want(t *testing.T) cacheapi.Model {
	t.Helper()
	m, err := n.fetched(t.Context(), cacheapi.Fetch{Model: model})
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(m.Path, "hub", "models--Qwen--Qwen3", "snapshots", m.Revision, "model.safetensors"))
	if err != nil || !bytes.Equal(got, big) {
		t.Fatalf("the file has %d bytes, %v, and they are right: %v", len(got), err, bytes.Equal(got, big))
	}
	return m
}

func TestTheOriginIsAwayFromTheStart(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	hub.Set(func(h *hubtest.Hub) { h.Down = true })
	n := begin(t, settings(t, hub.URL))
	_, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: model})
	if refused, ok := err.(*cacheapi.Error); !ok || refused.Status != http.StatusServiceUnavailable {
		t.Errorf("the socket answers %v", err)
	}
	res, _ := get(t, "GET", n.hfURL+"/Qwen/Qwen3/resolve/main/config.json")
	if res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") == "" {
		t.Errorf("the endpoint answers %s", res.Status)
	}
	hub.Set(func(h *hubtest.Hub) { h.Down = false })
	n.want(t)
}

// What is known is served while the origin is away, by a process that was started
// since, too.
func TestTheOriginGoesAway(t *testing.T) {
	hub := startHub(t)
	sha := qwen(hub)
	conf := settings(t, hub.URL)
	n := begin(t, conf)
	n.want(t)
	hub.Set(func(h *hubtest.Hub) { h.Down = true })
	n.Close()
	n = begin(t, conf)
	if held := n.Status().Held; len(held) != 1 || held[0] != model+"@main" {
		t.Errorf("after a restart the node holds %v", held)
	}
	if m := n.want(t); m.Revision != sha || !m.Stale {
		t.Errorf("%+v", m)
	}
	if res, body := get(t, "GET", n.hfURL+"/Qwen/Qwen3/resolve/"+sha+"/model.safetensors"); res.StatusCode != http.StatusOK || !bytes.Equal(body, big) {
		t.Errorf("%s, %d bytes", res.Status, len(body))
	}
	if !strings.Contains(n.log.String(), "using the last known revision") {
		t.Error("the log does not say so")
	}
}

// Connections that break off, and requests that are put off, cost a second attempt and
// no byte twice.
func TestTheOriginBreaksOff(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	n := begin(t, settings(t, hub.URL))
	if _, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: model, Include: []string{"config.json"}, Wait: 30}); err != nil {
		t.Fatal(err)
	}
	before := hub.Read()
	hub.Set(func(h *hubtest.Hub) { h.Cut, h.Cuts, h.Limit = 100_000, 5, 2 })
	n.want(t)
	if read, want := hub.Read()-before, int64(len(big)+5); read < want || read > want+5*128<<10 {
		t.Errorf("%d bytes were read of %d", read, want)
	}
}

func TestASignedURLLapses(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	n := begin(t, settings(t, hub.URL))
	if res, body := get(t, "GET", n.hfURL+"/Qwen/Qwen3/resolve/main/model.safetensors", "Range", "bytes=0-9"); res.StatusCode != http.StatusPartialContent || !bytes.Equal(body, big[:10]) {
		t.Fatalf("%s %q", res.Status, body)
	}
	hub.Set(func(h *hubtest.Hub) { h.Expired = 1 })
	n.want(t)
	hub.Set(func(h *hubtest.Hub) {
		if h.Expired != 0 {
			t.Error("the URL was not used again")
		}
	})
}

// An origin that sends headers and then nothing is asked again.
func TestTheOriginStalls(t *testing.T) {
	t.Parallel()
	hub := startHub(t)
	qwen(hub)
	conf := settings(t, hub.URL)
	conf.OriginStall = time.Second
	n := begin(t, conf)
	stall := make(chan struct{})
	hub.Set(func(h *hubtest.Hub) { h.Stall = stall })
	if _, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: model}); err != nil {
		t.Fatal(err)
	}
	n.log.await(t, 0, "no data arrived for too long")
	hub.Set(func(h *hubtest.Hub) { h.Stall = nil })
	n.want(t)
}

// A file with other bytes than its digest is never shown, and no trace of it stays.
func TestTheOriginIsCorrupt(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	hub.Set(func(h *hubtest.Hub) { h.Corrupt = true })
	n := begin(t, settings(t, hub.URL))
	m, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: model, Wait: 30})
	if err != nil || m.State != cacheapi.Failed || !strings.Contains(m.Error, "do not match the object's digest") || m.Path != "" {
		t.Errorf("%+v, %v", m, err)
	}
	hub.Set(func(h *hubtest.Hub) { h.Corrupt = false })
	n.want(t)
}

// A branch that moves during a fetch does not mix two commits.
func TestTheBranchMoves(t *testing.T) {
	hub := startHub(t)
	first := qwen(hub)
	n := begin(t, settings(t, hub.URL))
	stall := make(chan struct{})
	hub.Set(func(h *hubtest.Hub) { h.Stall = stall })
	if _, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: model}); err != nil {
		t.Fatal(err)
	}
	second := hub.Push("Qwen/Qwen3", "main", map[string]hubtest.File{"config.json": {Body: []byte("other")}, "model.safetensors": {Body: big, LFS: true}})
	hub.Set(func(h *hubtest.Hub) { h.Stall = nil })
	close(stall)
	m, err := n.fetched(t.Context(), cacheapi.Fetch{Model: model})
	if err != nil || m.Revision != first {
		t.Fatalf("%+v, %v", m, err)
	}
	if got, err := os.ReadFile(filepath.Join(m.Path, "hub/models--Qwen--Qwen3/snapshots", first, "config.json")); err != nil || string(got) != `{"a":1}` {
		t.Errorf("%q, %v", got, err)
	}
	read := hub.Read()
	m, err = n.fetched(t.Context(), cacheapi.Fetch{Model: model + "@" + second})
	if err != nil || m.Revision != second || hub.Read()-read != 5 {
		t.Errorf("%+v, %v; %d bytes were read for a change of 5", m, err, hub.Read()-read)
	}
}

// Nothing of a gated or private repository is given to who has not passed the origin,
// and the token is in no file and no log. The Hub lists a gated one to everybody.
func TestGatedRepositories(t *testing.T) {
	for name, private := range map[string]bool{"gated": false, "private": true} {
		t.Run(name, func(t *testing.T) { refuses(t, private) })
	}
}

const secret = "hf_secret_of_the_test"

func refuses(t *testing.T, private bool) {
	hub := startHub(t)
	sha := qwen(hub)
	hub.Set(func(h *hubtest.Hub) { h.Token, h.Private = secret, private })
	conf := settings(t, hub.URL)
	n := begin(t, conf)
	at := n.hfURL + "/Qwen/Qwen3/resolve/" + sha + "/model.safetensors"
	denied(t, n, at) // while the commit is unknown
	if _, err := n.fetched(t.Context(), cacheapi.Fetch{Model: model, Token: secret}); err != nil {
		t.Fatal(err)
	}
	if res, body := get(t, "GET", at, "Authorization", "Bearer "+secret); res.StatusCode != http.StatusOK || !bytes.Equal(body, big) {
		t.Errorf("with the token: %s", res.Status)
	}
	denied(t, n, at)
	hub.Set(func(h *hubtest.Hub) { h.Down = true })
	if res, _ := get(t, "GET", at); res.StatusCode != http.StatusTooManyRequests {
		t.Errorf("while the origin is away: %s", res.Status)
	}
	if strings.Contains(n.log.String(), secret) {
		t.Error("the token is in the log")
	}
	_ = filepath.WalkDir(conf.Dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if text, err := os.ReadFile(path); err == nil && bytes.Contains(text, []byte(secret)) {
				t.Errorf("the token is in %s", path)
			}
		}
		return nil
	})
}

// denied asks for a file without the token and with another.
func denied(t *testing.T, n *node, at string) {
	t.Helper()
	for _, header := range []string{"", "Bearer wrong"} {
		res, body := get(t, "GET", at, "Authorization", header)
		if res.StatusCode != http.StatusUnauthorized || res.Header.Get("X-Error-Code") != "GatedRepo" || len(body) > 1000 {
			t.Errorf("%q: %s, %v, %d bytes", header, res.Status, res.Header, len(body))
		}
		_, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: model, Token: strings.TrimPrefix(header, "Bearer ")})
		if refused, ok := err.(*cacheapi.Error); !ok || refused.Status != http.StatusForbidden {
			t.Errorf("%q: the socket answers %v", header, err)
		}
	}
}

// A repository that everybody could read is refused once it is gated or private, and not
// given to everybody again when the Hub goes away.
func TestARepositoryBecomesGated(t *testing.T) {
	for name, private := range map[string]bool{"gated": false, "private": true} {
		t.Run(name, func(t *testing.T) {
			hub := startHub(t)
			sha := qwen(hub)
			conf := settings(t, hub.URL)
			n := begin(t, conf)
			n.want(t)
			n.Close()
			hub.Set(func(h *hubtest.Hub) { h.Token, h.Private = secret, private })
			n = begin(t, conf) // no word of the Hub holds any more
			at := n.hfURL + "/Qwen/Qwen3/resolve/" + sha + "/model.safetensors"
			denied(t, n, at)
			hub.Set(func(h *hubtest.Hub) { h.Down = true })
			for _, at := range []string{at, n.hfURL + "/Qwen/Qwen3/resolve/main/model.safetensors"} {
				if res, body := get(t, "GET", at); res.StatusCode != http.StatusTooManyRequests {
					t.Errorf("while the origin is away: %s, %d bytes", res.Status, len(body))
				}
			}
		})
	}
}

// A peer that ends in the middle is replaced by the next one or the origin.
func TestAPeerDies(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	all := nodes(t, hub.URL, 3)
	stall := make(chan struct{})
	hub.Set(func(h *hubtest.Hub) { h.Stall = stall })
	for _, n := range all[1:] {
		if _, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: model}); err != nil {
			t.Fatal(err)
		}
	}
	all[0].Close()
	hub.Set(func(h *hubtest.Hub) { h.Stall = nil })
	close(stall)
	for _, n := range all[1:] {
		n.want(t)
	}
	if read := hub.Read(); read > int64(2*len(big)) {
		t.Errorf("%d bytes were read of %d", read, len(big))
	}
}

// Nodes that see different peers read a chunk twice at most, and none waits for one
// that waits for it.
func TestTwoViewsOfThePeers(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	addresses := []string{free(t), free(t)}
	var all []*node
	for i, address := range addresses {
		conf := settings(t, hub.URL)
		// Each takes the other under another name for the owner of all chunks.
		conf.Peer = &config.Peer{Listen: address, Advertise: fmt.Sprintf("self-%d:1", i), Known: []string{addresses[1-i]}, Insecure: true}
		all = append(all, begin(t, conf))
	}
	for _, n := range all {
		if _, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: model}); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range all {
		n.want(t)
	}
	if read := hub.Read(); read > int64(2*len(big)+100) {
		t.Errorf("%d bytes were read of %d", read, len(big))
	}
}

// A peer whose bytes are others than the origin's is found out and named, and the
// model is right in the end.
func TestAPeerLies(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	all := nodes(t, hub.URL, 2)
	all[0].want(t)
	object := filepath.Join(all[0].conf.Dir, "objects", "sha256-"+hubtest.SHA256(big))
	if err := os.Chmod(object, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(object, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for n := range (blob.Object{Size: int64(len(big))}).Chunks() {
		if _, err := f.WriteAt([]byte{^big[n*blob.ChunkSize+7]}, int64(n*blob.ChunkSize+7)); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	asked := false
	for n := range (blob.Object{Size: int64(len(big))}).Chunks() {
		owners := blob.Owners("sha256-"+hubtest.SHA256(big), n, []string{all[0].conf.Peer.Advertise, all[1].conf.Peer.Advertise})
		asked = asked || owners[0] == all[0].conf.Peer.Advertise
	}
	all[1].want(t)
	if said := strings.Contains(all[1].log.String(), "a peer sent wrong bytes") && strings.Contains(all[1].log.String(), all[0].conf.Peer.Advertise); said != asked {
		t.Errorf("the peer is named: %v, it was asked: %v", said, asked)
	}
}

// A question for what cannot be is refused, and for an object of another size too.
func TestWrongQuestionsOfPeers(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	n := begin(t, settings(t, hub.URL))
	good := fetch.Target{Object: blob.Object{ID: "sha256-" + hubtest.SHA256(big), Size: int64(len(big))}, Source: "hf://x@y/z"}
	other := good
	other.Object.ID = "../../etc/passwd"
	for _, ask := range []fetch.ChunkRequest{{Target: other}, {Target: good, Chunk: -1}, {Target: good, Chunk: 4}, {Target: good, Offset: -1}, {Target: good, Offset: blob.ChunkSize + 1}, {Target: good, Held: true}} {
		if r, err := n.cache.Chunk(t.Context(), ask); err == nil {
			r.Close()
			t.Errorf("%+v is answered", ask)
		}
	}
}
