package cache

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aliquot.example/cache/hubtest"
	"aliquot.example/internal/blob"
	"aliquot.example/internal/cacheapi"
)

// state is how far the node is with the model, without asking for it.
func (n *node) state(t *testing.T) (m cacheapi.Model) {
	t.Helper()
	s, err := n.api.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Models) > 0 {
		m = s.Models[0]
	}
	return m
}

// A task that is stopped while its model is fetched leaves no fetch behind. What has come
// stays, so that the next task reads the rest alone.
func TestAFetchThatNobodyWantsEnds(t *testing.T) {
	t.Parallel()
	hub := startHub(t)
	qwen(hub)
	conf := settings(t, hub.URL)
	conf.OriginRate = 12 << 20
	n := begin(t, conf)
	n.library.Linger = time.Millisecond
	ask := func(owner string) {
		if _, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: model, Owner: owner}); err != nil {
			t.Fatal(err)
		}
	}
	ask("a")
	ask("b")
	eventually(t, "a part of the model", func() bool { return n.state(t).Bytes > blob.ChunkSize })
	if err := n.api.Unpin(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	before := n.state(t)
	eventually(t, "more of the model for the other task", func() bool { m := n.state(t); return m.Bytes > before.Bytes || m.State == cacheapi.Whole })
	if err := n.api.Unpin(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of the fetch", func() bool { return n.state(t).State == cacheapi.Failed })
	if m := n.state(t); !strings.Contains(m.Error, "no task waits") || m.Final {
		t.Errorf("%+v", m)
	}
	if !hub.Await(30*time.Second, func(h *hubtest.Hub) bool { return h.Sending == 0 }) {
		t.Fatal("the transfers go on")
	}
	ask("c")
	n.want(t)
	if read := hub.Read(); read >= 2*int64(len(big)) {
		t.Errorf("%d bytes were read for a model of %d: what had come was thrown away", read, len(big))
	}
}

// A task that starts again within the time finds its fetch going on.
func TestAnOwnerThatComesBackKeepsItsFetch(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	conf := settings(t, hub.URL)
	conf.OriginRate = 40 << 20
	n := begin(t, conf)
	n.library.Linger = time.Hour
	for _, owner := range []string{"a", "b"} {
		if _, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: model, Owner: owner}); err != nil {
			t.Fatal(err)
		}
		if owner == "a" {
			if err := n.api.Unpin(t.Context(), owner); err != nil {
				t.Fatal(err)
			}
		}
	}
	n.want(t)
	if pins := n.store.Pins(); len(pins) != 1 || len(pins["b"]) != 1 {
		t.Errorf("pins are %v", pins)
	}
}

// The files of a model do not make room for each other: one that does not fit as a whole
// is said not to.
func TestAModelLargerThanTheCache(t *testing.T) {
	hub := startHub(t)
	files := map[string]hubtest.File{}
	for i := range 8 {
		files[fmt.Sprintf("part-%d", i)] = hubtest.File{Body: hubtest.Bytes(uint64(i), 3<<20), LFS: true}
	}
	hub.Push("Qwen/Qwen3", "main", files)
	conf := settings(t, hub.URL)
	conf.Capacity = 20 << 20
	n := begin(t, conf)
	_, err := n.fetched(t.Context(), cacheapi.Fetch{Model: model})
	if err == nil || !strings.Contains(err.Error(), "no room in the cache") {
		t.Errorf("a model of 24 MiB in a cache of 20: %v", err)
	}
	conf = settings(t, hub.URL)
	conf.Capacity = 24 << 20
	if _, err := begin(t, conf).fetched(t.Context(), cacheapi.Fetch{Model: model}); err != nil {
		t.Errorf("a model that just fits: %v", err)
	}
}

// A repository may have very many small files. The cache holds few of them open.
func TestManySmallFiles(t *testing.T) {
	hub := startHub(t)
	files := map[string]hubtest.File{}
	const many = 400
	for i := range many {
		files[fmt.Sprintf("shard-%d/part-%d.json", i%50, i)] = hubtest.File{Body: fmt.Appendf(nil, "part %d", i)}
	}
	hub.Push("Qwen/Qwen3", "main", files)
	n := begin(t, settings(t, hub.URL))
	before, most := descriptors(t), 0
	eventually(t, "list", func() bool {
		_, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: model})
		return err == nil
	})
	eventually(t, "all files", func() bool {
		most = max(most, descriptors(t))
		m := n.state(t)
		if m.State == cacheapi.Failed {
			t.Fatal(m.Error)
		}
		return m.State == cacheapi.Whole
	})
	if most-before > 100 {
		t.Errorf("%d files were open at once", most-before)
	}
	m := n.state(t)
	got, err := os.ReadFile(filepath.Join(m.Path, "hub", "models--Qwen--Qwen3", "snapshots", m.Revision, "shard-7", "part-307.json"))
	if err != nil || string(got) != "part 307" {
		t.Errorf("%q, %v", got, err)
	}
}

// A repository whose list takes longer than a client waits is listed once: clients get an
// error that asks them to try again, and later the list.
func TestALongListGoesOn(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	lists := make(chan struct{})
	hub.Set(func(h *hubtest.Hub) { h.Lists = lists })
	n := begin(t, settings(t, hub.URL))
	n.library.ListWait = time.Millisecond
	for range 3 {
		_, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: model})
		if status(err) != http.StatusServiceUnavailable || !strings.Contains(err.Error(), "has not finished listing") {
			t.Errorf("the socket answers %v", err)
		}
		if res, _ := get(t, "GET", n.hfURL+"/Qwen/Qwen3/resolve/main/config.json"); res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") != "5" {
			t.Errorf("the endpoint answers %s, %v", res.Status, res.Header)
		}
	}
	close(lists)
	eventually(t, "list", func() bool {
		_, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: model})
		return err == nil
	})
	asked := 0
	for _, r := range hub.Requests() {
		if strings.Contains(r, "/revision/") { // a listing begins with it
			asked++
		}
	}
	if asked != 1 {
		t.Errorf("the list was asked for %d times", asked)
	}
	n.want(t)
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// A model that is deleted at the origin stays where it is whole, under its last revision.
func TestAModelIsDeletedAtTheOrigin(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	n := begin(t, settings(t, hub.URL))
	n.want(t)
	hub.Delete("Qwen/Qwen3")
	// Within the minute for which a branch is believed, and after it by the pinned path.
	m := n.want(t)
	if _, err := os.Stat(m.Path); err != nil {
		t.Error(err)
	}
	other := begin(t, settings(t, hub.URL))
	_, err := other.api.Fetch(t.Context(), cacheapi.Fetch{Model: model})
	if refused, ok := err.(*cacheapi.Error); !ok || refused.Status != 404 {
		t.Errorf("a node that never had it: %v", err)
	}
}

// Names in a repository lead nowhere else: what the Hub calls a symbolic link in Git is a
// small file with a path in it, and stays one.
func TestSymbolicLinksInARepository(t *testing.T) {
	hub := startHub(t)
	hub.Push("Qwen/Qwen3", "main", map[string]hubtest.File{"link": {Body: []byte("/etc/passwd")}, "model": {Body: []byte("weights")}})
	n := begin(t, settings(t, hub.URL))
	m, err := n.fetched(t.Context(), cacheapi.Fetch{Model: model})
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(m.Path, "hub", "models--Qwen--Qwen3", "snapshots", m.Revision, "link"))
	if err != nil || string(got) != "/etc/passwd" {
		t.Errorf("the file of the link holds %q, %v", got, err)
	}
	for i, name := range []string{"../../../../escape", "/etc/escape", "a/../../../../../../escape", "a//b", ""} {
		evil := fmt.Sprintf("Evil/Model-%d", i)
		hub.Push(evil, "main", map[string]hubtest.File{name: {Body: []byte("x")}, "good": {Body: []byte("y")}})
		_, err := n.fetched(t.Context(), cacheapi.Fetch{Model: "hf://" + evil})
		if err == nil || !strings.Contains(err.Error(), "has a path outside the model") {
			t.Errorf("a file named %q: %v", name, err)
		}
	}
	escaped := false
	_ = filepath.WalkDir(filepath.Dir(n.conf.Dir), func(path string, _ os.DirEntry, _ error) error {
		escaped = escaped || strings.HasSuffix(path, "escape")
		return nil
	})
	if _, err := os.Lstat("/etc/escape"); err == nil || escaped {
		t.Error("a file appeared outside of its view")
	}
}

// A list that never ends is an error, and no model of the files that came until then.
func TestAListWithoutEnd(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	hub.Set(func(h *hubtest.Hub) { h.Endless = true })
	n := begin(t, settings(t, hub.URL))
	eventually(t, "end of the list", func() bool {
		_, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: model})
		if err == nil {
			t.Fatal("a part of a list is taken for the whole")
		}
		return strings.Contains(err.Error(), "more than 1000 pages")
	})
}

// Of models that were evicted, and of all but the last that failed, nothing stays in memory.
func TestJobsThatAreOverAreFew(t *testing.T) {
	t.Parallel()
	hub := startHub(t)
	files := map[string]hubtest.File{}
	const many = 60
	for i := range many {
		files[fmt.Sprintf("part-%d", i)] = hubtest.File{Body: hubtest.Bytes(uint64(i), 1<<20), LFS: true}
	}
	hub.Push("Qwen/Qwen3", "main", files)
	conf := settings(t, hub.URL)
	conf.Capacity = 10 << 20
	n := begin(t, conf)
	for _, c := range []struct {
		state string
		most  int
	}{{cacheapi.Failed, 51}, {cacheapi.Whole, 11}} {
		hub.Set(func(h *hubtest.Hub) { h.Corrupt = c.state == cacheapi.Failed })
		for i := range many {
			m, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: model, Include: []string{fmt.Sprintf("part-%d", i)}, Wait: 60})
			if err != nil || m.State != c.state {
				t.Fatalf("%+v, %v", m, err)
			}
		}
		s, err := n.api.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		count := 0
		for _, m := range s.Models {
			if m.State == c.state {
				count++
			}
		}
		if count == 0 || count > c.most {
			t.Errorf("%d of %d jobs that ended as %s are kept", count, many, c.state)
		}
	}
}
