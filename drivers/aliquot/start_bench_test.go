package aliquot

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"aliquot.example/cache/hubtest"
	"aliquot.example/internal/cacheapi"
	"aliquot.example/internal/compiled"
	"aliquot.example/internal/snapshot"
)

// BenchmarkPrepare is what this driver adds to the docker driver's StartTask
// before the engine is asked for anything.
func BenchmarkPrepare(b *testing.B) {
	r := nvidiaTree(b)
	for _, lib := range []string{"libcuda.so.1", "libnvidia-ml.so.1", "libnvidia-ptxjitcompiler.so.1", "libnvidia-nvvm.so.4"} {
		r.file("usr/lib/x86_64-linux-gnu/"+lib, "")
	}
	s := attachSettings(r, AttachAuto)
	s.timeout = patience
	_, schema := schemas(b)
	cfg := newJob(b, schema, `{"variant": [{"a": [{"image": "x:1", "vendor": "amd"}]}, {"b": [{"image": "y:1", "constraint": [{"attribute": "memory", "operator": ">=", "value": "20 GiB"}]}]}]}`, reserved(wholeGrant()), nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.prepare(cfg, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWholeModel is what a start with a model adds where the node has it.
func BenchmarkWholeModel(b *testing.B) {
	n := newCache(b, "")
	b.Cleanup(n.start())
	if m, err := n.Fetch(b.Context(), cacheapi.Fetch{Model: qwen, Wait: 60}); err != nil || m.State != cacheapi.Whole {
		b.Fatal(m, err)
	}
	d := unstarted(b)
	d.set = settings{cacheSocket: n.socket(), host: "/"}
	_, schema := schemas(b)
	cfg := newJob(b, schema, modelTask("none", "/x", ""), nil, nil)
	here := pull{done: make(chan struct{})}
	close(here.done)
	for b.Loop() {
		s, err := d.set.prepare(cfg, nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := d.fetchModels(cfg, &s, &here); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSeed fills a task's folder with 300 files of 150 MB in all, of a snapshot that
// the node has.
func BenchmarkSeed(b *testing.B) {
	n := newCache(b, "")
	b.Cleanup(n.start())
	from := b.TempDir()
	for i := range 300 {
		if err := os.WriteFile(filepath.Join(from, fmt.Sprint(i)), hubtest.Bytes(uint64(i), 500_000), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	archive, err := os.Create(filepath.Join(b.TempDir(), "archive"))
	if err != nil {
		b.Fatal(err)
	}
	if err := snapshot.Pack(b.Context(), archive, from, compiledLimits); err != nil {
		b.Fatal(err)
	}
	length, _ := archive.Seek(0, 1)
	_, _ = archive.Seek(0, 0)
	key := compiled.Key{Job: "b"}.Sum()
	if err := n.Publish(b.Context(), key, "", archive, length); err != nil {
		b.Fatal(err)
	}
	d := unstarted(b)
	d.set = settings{cacheSocket: n.socket()}
	dir := filepath.Join(b.TempDir(), "to")
	for b.Loop() {
		if err := emptyCaches(dir); err != nil {
			b.Fatal(err)
		}
		if err := d.unpack(b.Context(), key, dir); err != nil {
			b.Fatal(err)
		}
	}
}
