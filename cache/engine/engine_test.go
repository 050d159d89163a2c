package engine

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const socket = "/var/run/docker.sock"

// registry serves one image of one file, t/plain:1, and returns host:port. Its content is
// another for each test, so that no engine has it.
func registry(t *testing.T) string {
	t.Helper()
	blobs := map[string][]byte{}
	keep := func(body []byte) (digest string, size int) {
		sum := sha256.Sum256(body)
		digest = "sha256:" + hex.EncodeToString(sum[:])
		blobs[digest] = body
		return digest, len(body)
	}
	var plain, packed bytes.Buffer
	text := []byte(rand.Text())
	w := tar.NewWriter(&plain)
	_ = w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(text))})
	_, _ = w.Write(text)
	w.Close()
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(plain.Bytes())
	z.Close()
	diff := sha256.Sum256(plain.Bytes())
	layer, layerSize := keep(packed.Bytes())
	config, configSize := keep(fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%x"]}}`, diff))
	manifest, _ := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
		"config": map[string]any{"mediaType": "application/vnd.docker.container.image.v1+json", "digest": config, "size": configSize},
		"layers": []any{map[string]any{"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "digest": layer, "size": layerSize}},
	})
	name, _ := keep(manifest)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		last := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		switch {
		case r.URL.Path == "/v2/":
		case strings.HasPrefix(r.URL.Path, "/v2/t/plain/manifests/") && (last == "1" || last == name):
			w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v2+json")
			w.Header().Set("Docker-Content-Digest", name)
			_, _ = w.Write(manifest)
		case blobs[last] != nil:
			_, _ = w.Write(blobs[last])
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// An image is pulled by the real engine, and one that cannot be is an error of one line.
func TestPull(t *testing.T) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Skipf("no docker engine runs, scripts/setup starts one: %v", err)
	}
	c.Close()
	e, image := New(socket), registry(t)+"/t/plain:1"
	if here, err := e.Has(t.Context(), image); err != nil || here {
		t.Fatalf("before the pull it is here: %v, %v", here, err)
	}
	if err := e.Pull(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = exec.Command("docker", "rmi", image).Run() })
	if here, err := e.Has(t.Context(), image); err != nil || !here {
		t.Errorf("after the pull it is here: %v, %v", here, err)
	}
	for _, wrong := range []string{strings.Replace(image, "plain", "none", 1), "127.0.0.1:1/t/plain:1"} {
		if err := e.Pull(t.Context(), wrong); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}

// An engine that hangs holds nobody up.
func TestAnEngineThatHangs(t *testing.T) {
	at := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", at)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // it accepts no connection
	e := New(at)
	e.timeout = 50 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err = e.Has(ctx, "a:1")
	if err == nil || !strings.Contains(err.Error(), "the container engine does not answer") || ctx.Err() != nil {
		t.Error(err)
	}
}

func TestAnEngineThatIsAway(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	e := New(filepath.Join(t.TempDir(), "none"))
	if _, err := e.Has(ctx, "a:1"); err == nil || !strings.Contains(err.Error(), "the container engine does not answer") {
		t.Error(err)
	}
	if err := e.Pull(ctx, "a:1"); err == nil || !strings.Contains(err.Error(), "the container engine does not answer") {
		t.Error(err)
	}
}
