package cache

import (
	"bytes"
	"encoding/json"
	"io"
	stdlog "log"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"aliquot.example/cache/hubtest"
)

// registryServer is a registry that counts the bytes it sends, asks for a name and a password
// for some repositories, and fails on demand.
type registryServer struct {
	*httptest.Server
	handler http.Handler

	mu       sync.Mutex
	private  string // part of the paths that ask for credentials
	read     int64  // bytes of blobs
	requests []string
	down     bool
	corrupt  bool
	lies     bool // says that blobs are longer than they are
	// linked are the paths below which alone some blobs are found, by digest: the handler
	// itself finds a blob in every repository.
	linked map[string]string
}

const (
	registryUser     = "user"
	registryPassword = "a-password-of-the-test"
)

func startRegistry(t *testing.T) *registryServer {
	t.Helper()
	s := &registryServer{handler: registry.New(registry.Logger(stdlog.New(io.Discard, "", 0)))}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *registryServer) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *registryServer) bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.read
}

// host is the registry's name in those of images, and path the same below an endpoint.
func (s *registryServer) host() string { return strings.TrimPrefix(s.URL, "http://") }
func (s *registryServer) path() string { return strings.Replace(s.host(), ":", "__", 1) }

func (s *registryServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	down, corrupt, lies := s.down, s.corrupt, s.lies
	private := s.private != "" && strings.Contains(r.URL.Path, s.private)
	s.requests = append(s.requests, r.Method+" "+r.URL.Path)
	within, linked := s.linked[path.Base(r.URL.Path)]
	s.mu.Unlock()
	user, password, _ := r.BasicAuth()
	switch {
	case down:
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case private && (user != registryUser || password != registryPassword):
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	case linked && !strings.HasPrefix(r.URL.Path, within):
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
		w = &blobWriter{ResponseWriter: w, server: s, corrupt: corrupt, lies: lies}
	}
	s.handler.ServeHTTP(w, r)
}

// blobWriter counts what is sent of blobs, and changes it.
type blobWriter struct {
	http.ResponseWriter
	server        *registryServer
	corrupt, lies bool
}

func (w *blobWriter) WriteHeader(status int) {
	if w.lies {
		h := w.Header()
		h.Set("Content-Range", h.Get("Content-Range")+"0")
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *blobWriter) Write(p []byte) (int, error) {
	if w.corrupt && len(p) > 0 {
		p = bytes.Clone(p)
		p[0] ^= 1
	}
	n, err := w.ResponseWriter.Write(p)
	w.server.set(func() { w.server.read += int64(n) })
	return n, err
}

// push makes an image of some layers, and returns it and how many bytes its blobs have.
func (s *registryServer) push(t *testing.T, repository string, layers int64) (v1.Image, int64) {
	t.Helper()
	img, err := random.Image(9<<20, layers)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(s.host() + "/" + repository)
	if err != nil {
		t.Fatal(err)
	}
	auth := remote.WithAuth(&authn.Basic{Username: registryUser, Password: registryPassword})
	if err := remote.Write(ref, img, auth); err != nil {
		t.Fatal(err)
	}
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	size := m.Config.Size
	for _, l := range m.Layers {
		size += l.Size
	}
	return img, size
}

// pushModel pushes an artifact of raw layers, as ORAS does.
func (s *registryServer) pushModel(t *testing.T) string {
	t.Helper()
	put := func(method, path string, body []byte, kind string) *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", kind)
		res, err := http.DefaultClient.Do(r)
		if err != nil || res.StatusCode >= 300 {
			t.Fatalf("%s %s: %v, %v", method, path, res, err)
		}
		res.Body.Close()
		return res
	}
	layers := []map[string]any{}
	for title, body := range map[string][]byte{"model.gguf": big, "config/config.json": []byte("{}")} {
		sum := "sha256:" + hubtest.SHA256(body)
		put("POST", s.URL+"/v2/m/llama/blobs/uploads/?digest="+sum, body, "application/octet-stream")
		layers = append(layers, map[string]any{"mediaType": "application/vnd.cncf.model.weight.v1.raw", "digest": sum, "size": len(body), "annotations": map[string]string{"org.opencontainers.image.title": title}})
	}
	put("POST", s.URL+"/v2/m/llama/blobs/uploads/?digest=sha256:"+hubtest.SHA256([]byte("{}")), []byte("{}"), "application/octet-stream")
	text, _ := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "artifactType": "application/vnd.cncf.model.manifest.v1+json",
		"config": map[string]any{"mediaType": "application/vnd.oci.empty.v1+json", "digest": "sha256:" + hubtest.SHA256([]byte("{}")), "size": 2}, "layers": layers,
	})
	put("PUT", s.URL+"/v2/m/llama/manifests/v1", text, "application/vnd.oci.image.manifest.v1+json")
	return "oci://" + s.host() + "/m/llama:v1"
}

// manifest pushes a manifest to a repository that everybody may push to.
func (s *registryServer) manifest(t *testing.T, repository, tag, kind string, content map[string]any) {
	t.Helper()
	text, err := json.Marshal(content)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), "PUT", s.URL+"/v2/"+repository+"/manifests/"+tag, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", kind)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		t.Fatalf("the manifest %s: %s", tag, res.Status)
	}
}
