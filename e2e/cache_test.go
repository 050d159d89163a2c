package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"

	consul "github.com/hashicorp/consul/api"

	"aliquot/cache/hubtest"
	"aliquot/e2e/cluster"
)

// TestCacheJob runs the cache as its job file says, and reads a model through the Hub's
// face, from the store when the Hub has gone.
func TestCacheJob(t *testing.T) {
	hub, stop := hubtest.Start()
	defer stop()
	body := hubtest.Bytes(1, 20<<20)
	sha := hub.Push("Qwen/Qwen3", "main", map[string]hubtest.File{"config.json": {Body: []byte("{}")}, "model.safetensors": {Body: body, LFS: true}})
	ctx, c := start(t, cluster.Options{})
	address := freeAddress(t)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	job, err := c.Run("jobs/cache.nomad.hcl", cluster.Vars{
		"command": c.Program("aliquot"), "consul": c.ConsulAddress[len("http://"):], "tls": "", "hf_port": port,
		"settings": fmt.Sprintf("dir = %q\nsocket = %q\nkeep_free = \"0\"\nhuggingface { endpoint = %q }\n", filepath.Join(dir, "store"), filepath.Join(dir, "s"), hub.URL),
	})
	if err != nil {
		t.Fatal(err)
	}
	purge(ctx, t, c, *job.ID)
	if _, err := c.AwaitRunning(ctx, *job.ID, 1); err != nil {
		t.Fatal(err)
	}
	err = cluster.Await(ctx, "the cache in Consul", func() string {
		found, _, err := c.Consul.Health().Service("aliquot-cache", "", true, &consul.QueryOptions{})
		if err != nil || len(found) != 1 {
			return fmt.Sprintf("%d are healthy, %v", len(found), err)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	read := func(path string) (*http.Response, []byte) {
		res, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, got
	}
	at := "/Qwen/Qwen3/resolve/main/model.safetensors"
	if res, got := read(at); res.StatusCode != http.StatusOK || res.Header.Get("X-Repo-Commit") != sha || !bytes.Equal(got, body) {
		t.Fatalf("%s %v, %d bytes", res.Status, res.Header, len(got))
	}
	hub.Set(func(h *hubtest.Hub) { h.Down = true })
	if res, got := read("/Qwen/Qwen3/resolve/" + sha + "/model.safetensors"); res.StatusCode != http.StatusOK || !bytes.Equal(got, body) {
		t.Errorf("without the Hub: %s, %d bytes", res.Status, len(got))
	}
}
