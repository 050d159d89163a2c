package cache

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"aliquot.example/cache/config"
	"aliquot.example/cache/hubtest"
	"aliquot.example/internal/blob"
	"aliquot.example/internal/cacheapi"
)

// big is a file of three chunks and a piece.
var big = hubtest.Bytes(1, 3*blob.ChunkSize+12345)

func qwen(hub *hubtest.Hub) string {
	return hub.Push("Qwen/Qwen3", "main", map[string]hubtest.File{
		"config.json":           {Body: []byte(`{"a":1}`)},
		"model.safetensors":     {Body: big, LFS: true},
		"tokenizer/vocab é.txt": {Body: []byte("words")},
		"tokenizer/empty":       {Body: nil},
	})
}

// A model that is asked for appears as a whole in the layout of the Hub's cache, and a
// second request copies and reads nothing.
func TestAModelBecomesAView(t *testing.T) {
	hub := startHub(t)
	sha := qwen(hub)
	n := begin(t, settings(t, hub.URL))
	m, err := n.fetched(t.Context(), cacheapi.Fetch{Model: "hf://Qwen/Qwen3", Owner: "alloc-1"})
	if err != nil {
		t.Fatal(err)
	}
	repo := filepath.Join(m.Path, "hub", "models--Qwen--Qwen3")
	snapshot := filepath.Join(repo, "snapshots", sha)
	for path, want := range map[string][]byte{"config.json": []byte(`{"a":1}`), "model.safetensors": big, "tokenizer/vocab é.txt": []byte("words"), "tokenizer/empty": nil} {
		got, err := os.ReadFile(filepath.Join(snapshot, path))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v; want %d", path, len(got), err, len(want))
		}
	}
	if ref, err := os.ReadFile(filepath.Join(repo, "refs", "main")); err != nil || string(ref) != sha {
		t.Errorf("refs/main is %q, %v", ref, err)
	}
	link, err := os.Readlink(filepath.Join(snapshot, "model.safetensors"))
	if err != nil || link != "../../blobs/"+hubtest.SHA256(big) {
		t.Errorf("the file is a link to %q, %v", link, err)
	}
	read := hub.Read()
	if want := int64(len(big) + 7 + 5); m.Total != want || read != want {
		t.Errorf("%d bytes were read for a model of %d, want %d", read, m.Total, want)
	}
	again, err := n.fetched(t.Context(), cacheapi.Fetch{Model: "hf://Qwen/Qwen3@" + sha})
	if err != nil || hub.Read() != read {
		t.Errorf("again: %+v, %v, %d bytes were read", again, err, hub.Read()-read)
	}
	whole, _ := os.Stat(filepath.Join(snapshot, "model.safetensors"))
	object, _ := os.Stat(filepath.Join(n.conf.Dir, "objects", "sha256-"+hubtest.SHA256(big)))
	if !os.SameFile(whole, object) {
		t.Error("the view holds a copy")
	}
}

// Eight nodes that want a model at once read it from the origin once.
func TestTheOriginIsReadOnce(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	all := nodes(t, hub.URL, 8)
	var done sync.WaitGroup
	for _, n := range all {
		done.Go(func() {
			if _, err := n.fetched(t.Context(), cacheapi.Fetch{Model: "hf://Qwen/Qwen3", Include: []string{"*.safetensors"}}); err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
	if read := hub.Read(); read != int64(len(big)) {
		t.Errorf("%d bytes were read of a file of %d, %.2f times", read, len(big), float64(read)/float64(len(big)))
	}
}

// A node that comes later reads nothing of the origin, its own chunks neither: a peer has
// them. When the only one that had them has gone, the origin is read.
func TestALaterNodeReadsThePeers(t *testing.T) {
	hub := startHub(t)
	qwen(hub)
	known := []string{free(t), free(t), free(t)}
	var all []*node
	start := func() *node {
		conf := settings(t, hub.URL)
		conf.Peer = &config.Peer{Listen: known[len(all)], Advertise: known[len(all)], Known: known, Insecure: true}
		all = append(all, begin(t, conf))
		return all[len(all)-1]
	}
	start().want(t)
	read := hub.Read()
	if m := start().want(t); m.Peers != 1 || hub.Read() != read {
		t.Errorf("from %d peers, and %d bytes of the origin", m.Peers, hub.Read()-read)
	}
	for _, n := range all {
		n.Close()
	}
	start().want(t)
	if again := hub.Read() - read; again != read {
		t.Errorf("%d bytes were read of a model of %d", again, read)
	}
}
