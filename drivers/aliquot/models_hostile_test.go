package aliquot

import (
	"testing"

	"github.com/hashicorp/nomad/nomad/structs"

	"aliquot.example/cache/hubtest"
)

// Two tasks that start at once with a model that nobody has fetch it once, and both have
// it mounted.
func TestTasksThatStartAtOnceShareOneFetch(t *testing.T) {
	n, s, stall := stalledCache(t)
	started := make(chan error, 2)
	for range 2 {
		cfg := s.job(modelTask("none", "/x", ""), nil, nil)
		go func() {
			_, _, err := s.StartTask(cfg)
			started <- err
		}()
		t.Cleanup(func() { _ = s.DestroyTask(cfg.ID, true) })
	}
	await(t, "a fetch", func() bool {
		st, err := n.Status(t.Context())
		return err == nil && len(st.Models) == 1
	})
	n.hub.Set(func(h *hubtest.Hub) { h.Stall = nil })
	close(stall)
	for range 2 {
		if err := <-started; err != nil {
			t.Fatal(err)
		}
	}
	if read := n.hub.Read(); read != 20<<20+2 {
		t.Errorf("two tasks read %d bytes of the Hub", read)
	}
	if got := n.pins(t); len(got) != 2 {
		t.Errorf("pinned by %v", got)
	}
}

// A cache that ends while a start waits for its model fails that start for now. The next
// one goes on with what has come, and a mount outlives the cache.
func TestACacheThatEndsWhileATaskStarts(t *testing.T) {
	c := engine(t)
	probeImage(t, c, probeRef)
	n := newCache(t, `origin_rate = "48MiB"`)
	const size = 96 << 20
	n.sha = n.hub.Push("Qwen/Qwen3", "main", map[string]hubtest.File{
		"config.json": {Body: []byte("{}")}, "model.safetensors": {Body: hubtest.Bytes(3, size), LFS: true},
	})
	stop := n.start()
	s := ship(t, n.config())
	cfg := s.job(modelTask("none", "/x", ""), nil, nil)
	started := make(chan error, 1)
	go func() {
		_, _, err := s.StartTask(cfg)
		started <- err
	}()
	// More than the eight chunks of 8 MiB hold that are fetched at once: at least one is whole, and kept.
	await(t, "most of the model", func() bool {
		st, err := n.Status(t.Context())
		return err == nil && len(st.Models) == 1 && st.Models[0].Bytes > 66<<20
	})
	stop()
	if err := <-started; err == nil || !structs.IsRecoverable(err) {
		t.Errorf("a start whose cache ends: %v", err)
	}
	stop = n.start()
	file := modelsRoot + "/hub/models--Qwen--Qwen3/snapshots/" + n.sha + "/config.json"
	again := s.job(modelTask("none", file, ""), nil, nil)
	s.run(again)
	if read := n.hub.Read(); read >= 2*size {
		t.Errorf("%d bytes were read of a model of %d", read, size)
	}
	stop()
	await(t, "the file in the container", func() bool { return len(s.logs(again)) > 0 })
	t.Cleanup(n.start())
}
