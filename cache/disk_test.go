package cache

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aliquot.example/cache/config"
	"aliquot.example/cache/hubtest"
	"aliquot.example/internal/blob"
	"aliquot.example/internal/cacheapi"
)

// A disk that is full when a fetch begins, or that something else fills meanwhile, fails
// the fetch with one clear line and leaves nothing half made. With room again it succeeds.
func TestTheDiskIsFull(t *testing.T) {
	disk := t.TempDir()
	err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=48m")
	if errors.Is(err, unix.EPERM) {
		t.Skip("mounting a small file system needs root with CAP_SYS_ADMIN")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	hub := startHub(t)
	qwen(hub)
	filler := filepath.Join(disk, "filler")
	if err := os.WriteFile(filler, make([]byte, 30<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	conf := settings(t, hub.URL)
	conf.Dir = filepath.Join(disk, "store")
	n := begin(t, conf)
	m, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: model, Wait: 30})
	if err != nil || m.State != cacheapi.Failed || !m.Final || !strings.Contains(m.Error, "no room in the cache") || strings.Contains(m.Error, "\n") {
		t.Errorf("%+v, %v", m, err)
	}
	at := n.hfURL + "/Qwen/Qwen3/resolve/main/model.safetensors"
	if res, body := get(t, "GET", at); res.StatusCode != http.StatusOK || !bytes.Equal(body, big) {
		t.Errorf("it does not pass through: %s, %d bytes", res.Status, len(body))
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	n.want(t)
}

// An object on its way whose bytes the disk has changed is found out at its end and
// fetched again.
func TestTheDiskChangesAChunk(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	conf := settings(t, hub.URL)
	n := begin(t, conf)
	target := filepath.Join(conf.Dir, "partial", "sha256-"+hubtest.SHA256(big))
	// One chunk of the file, and then the end of the cache.
	if res, _ := get(t, "GET", n.hfURL+"/Qwen/Qwen3/resolve/main/model.safetensors", "Range", "bytes=0-8388607"); res.StatusCode != http.StatusPartialContent {
		t.Fatal(res.Status)
	}
	n.Close()
	if log, err := os.ReadFile(target + ".log"); err != nil || bytes.Count(log, []byte("\n")) < 2 {
		t.Fatalf("the log has no chunk: %q, %v", log, err)
	}
	f, err := os.OpenFile(target, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{^big[7]}, 7); err != nil {
		t.Fatal(err)
	}
	f.Close()
	n = begin(t, conf)
	n.want(t)
}

// A Hub that states a wrong length, too small or too large, fails the fetch, and nothing of
// the file is shown.
func TestTheOriginLiesAboutALength(t *testing.T) {
	for what, by := range map[string]int{"too long": 1000, "too short": -1000, "by a chunk": blob.ChunkSize} {
		t.Run(what, func(t *testing.T) {
			hub := startHub(t)
			qwen(hub)
			hub.Set(func(h *hubtest.Hub) { h.Longer = by })
			n := begin(t, settings(t, hub.URL))
			m, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: model, Wait: 30})
			if err != nil || m.State != cacheapi.Failed || m.Path != "" || !strings.Contains(m.Error, "changed at the origin") {
				t.Errorf("%+v, %v", m, err)
			}
		})
	}
}

// A peer that accepts questions and then says nothing is left after some seconds, for the
// origin.
func TestAPeerIsSilent(t *testing.T) {
	silent := map[string]http.HandlerFunc{
		"before its header": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"after its header": func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"in the middle of a frame": func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte{0, 4, 0, 0, 1, 2, 3})
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
	}
	for when, handler := range silent {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			hub := startHub(t)
			qwen(hub)
			peer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // or the server does not see that the client has gone
				handler(w, r)
			}))
			t.Cleanup(func() { peer.CloseClientConnections(); peer.Close() })
			self := free(t)
			conf := settings(t, hub.URL)
			conf.Peer = &config.Peer{Listen: self, Advertise: self, Known: []string{strings.TrimPrefix(peer.URL, "http://")}, Insecure: true}
			n := begin(t, conf)
			n.want(t)
			// Its wrong bytes cost their chunks a second time, and no others.
			wrong := strings.Contains(n.log.String(), "a peer sent wrong bytes")
			if read := hub.Read(); read < int64(len(big)) || !wrong && read > int64(len(big)+100) || wrong && read >= int64(2*len(big)) {
				t.Errorf("%d bytes were read of %d", read, len(big))
			}
			if asked := strings.Contains(n.log.String(), "a peer failed"); wrong != (asked && when == "in the middle of a frame") {
				t.Errorf("wrong bytes of the peer are named: %v", wrong)
			}
		})
	}
}

// A peer that is not there at all costs no more.
func TestAPeerIsAway(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	self := free(t)
	conf := settings(t, hub.URL)
	conf.Peer = &config.Peer{Listen: self, Advertise: self, Known: []string{free(t), free(t)}, Insecure: true}
	begin(t, conf).want(t)
}

// An origin that dies half-way and comes back costs its missing bytes alone; one that does
// not come back fails the fetch, which goes on later where it was.
func TestTheOriginDiesHalfWay(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	conf := settings(t, hub.URL)
	n := begin(t, conf)
	if res, _ := get(t, "GET", n.hfURL+"/Qwen/Qwen3/resolve/main/model.safetensors", "Range", "bytes=0-8388607"); res.StatusCode != http.StatusPartialContent {
		t.Fatal(res.Status)
	}
	before := hub.Read()
	hub.Set(func(h *hubtest.Hub) { h.Cut, h.Cuts = 1000, 2 })
	n.want(t)
	if read, want := hub.Read()-before, int64(len(big)-blob.ChunkSize+12); read < want || read > want+2*128<<10 {
		t.Errorf("%d bytes were read of the %d that were missing", read, want)
	}
}

// An object that somebody reads is not evicted, and its reader gets all of it.
func TestEvictionDuringARead(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	other := hubtest.Bytes(9, len(big))
	hub.Push("a/other", "main", map[string]hubtest.File{"model.safetensors": {Body: other, LFS: true}})
	conf := settings(t, hub.URL)
	conf.Capacity = int64(len(big)) + 1<<20
	n := begin(t, conf)
	n.want(t)
	r, err := http.NewRequestWithContext(t.Context(), "GET", n.hfURL+"/Qwen/Qwen3/resolve/main/model.safetensors", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	first := make([]byte, 1000)
	if _, err := io.ReadFull(res.Body, first); err != nil {
		t.Fatal(err)
	}
	m, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: "hf://a/other", Wait: 30})
	if err != nil || m.State != cacheapi.Failed || !strings.Contains(m.Error, "no room in the cache") {
		t.Errorf("while it is read: %+v, %v", m, err)
	}
	rest, err := io.ReadAll(res.Body)
	if err != nil || !bytes.Equal(append(first, rest...), big) {
		t.Errorf("its reader has %d bytes, %v", len(first)+len(rest), err)
	}
	n.log.await(t, 0, "no room in the cache")
	if _, err := n.fetched(t.Context(), cacheapi.Fetch{Model: "hf://a/other"}); err != nil {
		t.Errorf("once it is read: %v", err)
	}
}

// What is pinned stays: a model that does not fit beside it fails, and finds room when the
// pin ends.
func TestWhatIsPinnedIsTooLarge(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	hub.Push("a/other", "main", map[string]hubtest.File{"model.safetensors": {Body: hubtest.Bytes(9, len(big)), LFS: true}})
	conf := settings(t, hub.URL)
	conf.Capacity = int64(len(big)) + 1<<20
	n := begin(t, conf)
	first, err := n.fetched(t.Context(), cacheapi.Fetch{Model: model, Owner: "task"})
	if err != nil {
		t.Fatal(err)
	}
	ask := cacheapi.Fetch{Model: "hf://a/other", Wait: 30}
	if m, err := n.api.Fetch(t.Context(), ask); err != nil || m.State != cacheapi.Failed || !m.Final || !strings.Contains(m.Error, "no room in the cache") {
		t.Errorf("beside the pin: %+v, %v", m, err)
	}
	wantFile(t, filepath.Join(first.Path, "hub", "models--Qwen--Qwen3", "snapshots", first.Revision, "model.safetensors"), big)
	if err := n.api.Unpin(t.Context(), "task"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.fetched(t.Context(), ask); err != nil {
		t.Errorf("after the pin: %v", err)
	}
}

// A clock that was ahead does not hold a branch where it was, nor an object in the cache.
func TestTheClockWasAhead(t *testing.T) {
	hub := startHub(t)
	first := qwen(hub)
	conf := settings(t, hub.URL)
	n := begin(t, conf)
	n.want(t)
	n.Close()
	tomorrow := time.Now().Add(24 * time.Hour)
	listings, err := filepath.Glob(filepath.Join(conf.Dir, "listings", "*.json"))
	if err != nil || len(listings) == 0 {
		t.Fatal(listings, err)
	}
	for _, at := range listings {
		text, err := os.ReadFile(at)
		if err != nil {
			t.Fatal(err)
		}
		today := time.Now().Format(`"2006-01-02T`)
		writeFile(t, at, strings.ReplaceAll(string(text), `"at":`+today, `"at":`+tomorrow.Format(`"2006-01-02T`)))
	}
	second := hub.Push("Qwen/Qwen3", "main", map[string]hubtest.File{"config.json": {Body: []byte("new")}})
	m, err := begin(t, conf).fetched(t.Context(), cacheapi.Fetch{Model: model})
	if err != nil || m.Revision != second {
		t.Errorf("%+v, %v; want %s after %s", m, err, second, first)
	}
}

// A token that the Hub no longer takes opens nothing, once its last word has lapsed.
func TestATokenExpires(t *testing.T) {
	hub := startHub(t)
	sha := qwen(hub)
	hub.Set(func(h *hubtest.Hub) { h.Token = secret })
	n := begin(t, settings(t, hub.URL))
	n.library.PassFor = time.Nanosecond
	at := n.hfURL + "/Qwen/Qwen3/resolve/" + sha + "/config.json"
	if res, _ := get(t, "GET", at, "Authorization", "Bearer "+secret); res.StatusCode != http.StatusOK {
		t.Fatalf("while it is good: %s", res.Status)
	}
	hub.Set(func(h *hubtest.Hub) { h.Token = "another" })
	if res, _ := get(t, "GET", at, "Authorization", "Bearer "+secret); res.StatusCode != http.StatusUnauthorized && res.StatusCode != http.StatusForbidden {
		t.Errorf("once it has expired: %s", res.Status)
	}
}

// A cache that cannot start says why in one line, and leaves its directory to the next one.
func TestACacheThatCannotStart(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	conf := settings(t, "http://127.0.0.1:1")
	for want, change := range map[string]func(c *config.Config){
		"hf_listen: ":                     func(c *config.Config) { c.HF = busy.Addr().String() },
		"s3_listen: ":                     func(c *config.Config) { c.S3API.Listen = busy.Addr().String() },
		"oci_listen: ":                    func(c *config.Config) { c.OCIListen = busy.Addr().String() },
		"s3_keys_file: stat /nonexistent": func(c *config.Config) { c.S3API.KeysFile = "/nonexistent" },
		"huggingface: ":                   func(c *config.Config) { c.Hub.TokenFile = "/nonexistent" },
		"peer.listen: ": func(c *config.Config) {
			c.Peer = &config.Peer{Listen: busy.Addr().String(), Advertise: "x:1", Insecure: true}
		},
		"cache directory: mkdir /dev/null: ": func(c *config.Config) { c.Dir = "/dev/null" },
	} {
		wrong := *conf
		change(&wrong)
		d, err := Start(t.Context(), &wrong, slog.New(slog.DiscardHandler))
		if err == nil {
			d.Close()
		}
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v, want %s", err, want)
		}
	}
	begin(t, conf)
}
