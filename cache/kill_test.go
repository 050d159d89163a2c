package cache

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"aliquot.example/cache/hubtest"
	"aliquot.example/internal/blob"
	"aliquot.example/internal/cacheapi"
)

// TestMain is also the process that TestKilledInTheMiddle kills.
func TestMain(m *testing.M) {
	at := os.Getenv("CACHE_VICTIM")
	if at == "" {
		os.Exit(m.Run())
	}
	conf := victimSettings(at, os.Getenv("CACHE_HUB"))
	if _, err := Start(context.Background(), conf, slog.New(slog.NewTextHandler(io.Discard, nil))); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("started")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends
}

// A cache that is killed goes on with the chunks that it has.
func TestKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	hub := startHub(t)
	body := hubtest.Bytes(7, 20*blob.ChunkSize)
	hub.Push("a/b", "main", map[string]hubtest.File{"model.safetensors": {Body: body, LFS: true}})
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "CACHE_VICTIM="+dir, "CACHE_HUB="+hub.URL)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil { // open for as long as the test runs
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "started\n" {
		t.Fatalf("%q", line)
	}
	conf := victimSettings(dir, hub.URL)
	api := cacheapi.NewClient(conf.Socket)
	for {
		m, err := api.Fetch(t.Context(), cacheapi.Fetch{Model: "hf://a/b"})
		if err != nil || m.State == cacheapi.Failed {
			t.Fatalf("%+v, %v", m, err)
		}
		if written(t, dir) > 10 {
			break
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	before := hub.Read()
	conf.OriginRate = 0
	n := begin(t, conf)
	m, err := n.fetched(t.Context(), cacheapi.Fetch{Model: "hf://a/b"})
	if err != nil {
		t.Fatal(err)
	}
	// Chunks on their way, and those whose line was not yet written, come again.
	if again := hub.Read() - before; again > int64(len(body))*3/4 {
		t.Errorf("%d of %d bytes were read after the restart", again, len(body))
	}
	if m.Total != int64(len(body)) {
		t.Errorf("%+v", m)
	}
}

// A cache that ends leaves nobody behind who writes, and goes on where it was.
func TestEndedInTheMiddle(t *testing.T) {
	hub := startHub(t)
	body := hubtest.Bytes(7, 4*blob.ChunkSize)
	hub.Push("a/b", "main", map[string]hubtest.File{"model.safetensors": {Body: body, LFS: true}})
	dir := t.TempDir()
	n := begin(t, victimSettings(dir, hub.URL))
	for {
		m, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: "hf://a/b"})
		if err != nil || m.State == cacheapi.Failed {
			t.Fatalf("%+v, %v", m, err)
		}
		if hub.Read() > 0 {
			break
		}
	}
	n.Close()
	for _, m := range n.library.Models() {
		if m.State != cacheapi.Failed {
			t.Errorf("after the end: %+v", m)
		}
	}
	conf := victimSettings(dir, hub.URL)
	conf.OriginRate = 0
	if m, err := begin(t, conf).fetched(t.Context(), cacheapi.Fetch{Model: "hf://a/b"}); err != nil || m.Total != int64(len(body)) {
		t.Errorf("%+v, %v", m, err)
	}
}

// written is the number of chunks that the log of the one unfinished object names.
func written(t *testing.T, dir string) int {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(dir, "*", "partial", "*.log"))
	if err != nil || len(logs) != 1 {
		return 0
	}
	text, err := os.ReadFile(logs[0])
	if err != nil {
		return 0
	}
	return bytes.Count(text, []byte("\n")) - 1 // the first line is the object's
}
