package cache

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	stdlog "log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"aliquot/cache/config"
	"aliquot/cache/hubtest"
	"aliquot/internal/cacheapi"
)

// registryServer is a registry that keeps account of what was read, asks for a name and a
// password of some repositories, and fails when it is told to.
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

// host is the registry's name in those of images, and path the same below a face.
func (s *registryServer) host() string { return strings.TrimPrefix(s.URL, "http://") }
func (s *registryServer) path() string { return strings.Replace(s.host(), ":", "__", 1) }

func (s *registryServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	down, corrupt, lies := s.down, s.corrupt, s.lies
	private := s.private != "" && strings.Contains(r.URL.Path, s.private)
	s.requests = append(s.requests, r.Method+" "+r.URL.Path)
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

// pulls reads an image through a face with go-containerregistry's client, all of it and
// verified.
func pulls(t *testing.T, n *node, path string, auth authn.Authenticator) error {
	t.Helper()
	ref, err := name.ParseReference(strings.TrimPrefix(n.ociFace, "http://") + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(ref, remote.WithAuth(auth), remote.WithContext(t.Context()), remote.WithRetryBackoff(remote.Backoff{Steps: 1}))
	if err != nil {
		return err
	}
	return validate.Image(img)
}

func ociSettings(t *testing.T) *config.Config {
	t.Helper()
	conf := settings(t, "http://127.0.0.1:1")
	conf.OCIListen = "127.0.0.1:0"
	return conf
}

// An image is read once, by tag and digest, with ranges and HEAD.
func TestImagesThroughTheFace(t *testing.T) {
	s := startRegistry(t)
	img, size := s.push(t, "o/image:v1", 3)
	n := begin(t, ociSettings(t))
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{":v1", "@" + digest.String(), ":v1"} {
		if err := pulls(t, n, s.path()+"/o/image"+what, authn.Anonymous); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if read := s.bytes(); read != size {
		t.Errorf("%d bytes were read of blobs with %d", read, size)
	}
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	layer := m.Layers[0]
	at := n.ociFace + "/v2/" + s.path() + "/o/image/blobs/" + layer.Digest.String()
	res, _ := get(t, "HEAD", at)
	if res.StatusCode != 200 || res.ContentLength != layer.Size || res.Header.Get("Docker-Content-Digest") != layer.Digest.String() {
		t.Errorf("HEAD: %s %v", res.Status, res.Header)
	}
	_, whole := get(t, "GET", at)
	if got := "sha256:" + hubtest.SHA256(whole); got != layer.Digest.String() {
		t.Errorf("the layer has the digest %s", got)
	}
	res, piece := get(t, "GET", at, "Range", "bytes=8388600-8388620")
	if res.StatusCode != http.StatusPartialContent || !bytes.Equal(piece, whole[8388600:8388621]) {
		t.Errorf("a range: %s, %d bytes", res.Status, len(piece))
	}
	for path, want := range map[string]int{
		"/o/image/manifests/none": 404, "/o/image/blobs/sha256:" + strings.Repeat("0", 64): 404, "/o/image/tags/list": 404,
		"/o/image/blobs/sha512:" + strings.Repeat("0", 128): 404, "/O/image/manifests/v1": 404,
	} {
		if res, body := get(t, "GET", n.ociFace+"/v2/"+s.path()+path); res.StatusCode != want || !json.Valid(body) {
			t.Errorf("%s: %s %s", path, res.Status, body)
		}
	}
	if res, _ := get(t, "PUT", at); res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("PUT: %s", res.Status)
	}
}

// A tag that moves is followed, and what both images have is not read again.
func TestATagMoves(t *testing.T) {
	s := startRegistry(t)
	s.push(t, "o/image:v1", 1)
	n := begin(t, ociSettings(t))
	n.library.Fresh = time.Nanosecond
	_, before := get(t, "GET", n.ociFace+"/v2/"+s.path()+"/o/image/manifests/v1")
	img, _ := s.push(t, "o/image:v1", 1)
	want, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	if _, after := get(t, "GET", n.ociFace+"/v2/"+s.path()+"/o/image/manifests/v1"); !bytes.Equal(after, want) || bytes.Equal(after, before) {
		t.Errorf("the manifest is %s", after)
	}
}

// What one asker's credentials opened stays closed for others, also while the registry is
// away; the credentials are in no file and no log.
func TestPrivateImages(t *testing.T) {
	s := startRegistry(t)
	s.set(func() { s.private = "/secret/" })
	s.push(t, "secret/image:v1", 1)
	s.push(t, "o/image:v1", 1)
	n := begin(t, ociSettings(t))
	path := s.path() + "/secret/image:v1"
	right, wrong := &authn.Basic{Username: registryUser, Password: registryPassword}, &authn.Basic{Username: registryUser, Password: "wrong"}
	refused := func(when string) {
		t.Helper()
		if err := pulls(t, n, path, authn.Anonymous); err == nil {
			t.Errorf("%s: nobody may pull", when)
		}
		if err := pulls(t, n, path, wrong); err == nil {
			t.Errorf("%s: a wrong password opens it", when)
		}
	}
	refused("at first")
	if err := pulls(t, n, path, right); err != nil {
		t.Fatal(err)
	}
	refused("once it is here")
	if err := pulls(t, n, s.path()+"/o/image:v1", authn.Anonymous); err != nil {
		t.Errorf("a public image beside it: %v", err)
	}
	s.set(func() { s.down = true })
	refused("while the registry is away")
	if err := pulls(t, n, path, right); err != nil {
		t.Errorf("the right password while the registry is away: %v", err)
	}
	hidden(t, n, registryPassword)
}

// The node's own credentials open images for tasks of the namespaces that may use them:
// the driver has a ticket for each.
func TestTheNodesCredentialsAreOfNamespaces(t *testing.T) {
	s := startRegistry(t)
	s.set(func() { s.private = "/secret/" })
	s.push(t, "secret/image:v1", 1)
	conf := ociSettings(t)
	conf.OCI = config.OCI{AuthFile: filepath.Join(t.TempDir(), "config.json"), Namespaces: config.Namespaces{"ml"}}
	auth, _ := (&authn.Basic{Username: registryUser, Password: registryPassword}).Authorization()
	text, err := json.Marshal(map[string]any{"auths": map[string]any{s.host(): auth}})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, conf.OCI.AuthFile, string(text))
	n := begin(t, conf)
	as := func(namespace, image string) error {
		t.Helper()
		p, err := n.api.Image(t.Context(), cacheapi.Image{Image: s.host() + "/secret/image:v1", Namespace: namespace})
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.TrimPrefix(n.ociFace, "http://") + "/" + s.path() + "/secret/image:v1"; p.Name != want {
			t.Errorf("it is pulled as %s, want %s", p.Name, want)
		}
		return pulls(t, n, s.path()+"/"+image, &authn.Basic{Username: p.Username, Password: p.Password})
	}
	for range 2 {
		if err := as("web", "secret/image:v1"); err == nil {
			t.Error("another namespace may pull")
		}
		if err := pulls(t, n, s.path()+"/secret/image:v1", authn.Anonymous); err == nil {
			t.Error("nobody may pull")
		}
		if err := as("ml", "secret/image:v1"); err != nil {
			t.Errorf("the namespace: %v", err)
		}
	}
	s.push(t, "secret/other:v1", 1)
	if err := as("ml", "secret/other:v1"); err == nil {
		t.Error("a ticket for one image opens another")
	}
	if _, err := n.fetched(t.Context(), cacheapi.Fetch{Model: "oci://" + s.host() + "/secret/image:v1", Namespace: "web"}); status(err) != http.StatusForbidden {
		t.Errorf("as a model: %v", err)
	}
	if err := pulls(t, n, s.path()+"/secret/image:v1", &authn.Basic{Username: "aliquot", Password: "made-up"}); err == nil {
		t.Error("a made-up ticket opens it")
	}
	hidden(t, n, registryPassword)
}

// Whoever names a digest in a manifest of a registry of its own gets nothing of what came
// from elsewhere.
func TestADigestIsNoRight(t *testing.T) {
	s := startRegistry(t)
	s.set(func() { s.private = "/secret/" })
	img, _ := s.push(t, "secret/image:v1", 1)
	n := begin(t, ociSettings(t))
	if err := pulls(t, n, s.path()+"/secret/image:v1", &authn.Basic{Username: registryUser, Password: registryPassword}); err != nil {
		t.Fatal(err)
	}
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := img.RawManifest()
	digest, _ := img.Digest()
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", string(m.MediaType))
		w.Header().Set("Docker-Content-Digest", digest.String())
		if strings.Contains(r.URL.Path, "/manifests/") {
			_, _ = w.Write(raw)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(m.Layers[0].Size))
		if r.Method == http.MethodGet {
			w.WriteHeader(http.StatusNotFound) // it has none of it
		}
	}))
	defer evil.Close()
	path := strings.Replace(strings.TrimPrefix(evil.URL, "http://"), ":", "__", 1)
	if res, _ := get(t, "GET", n.ociFace+"/v2/"+path+"/x/y/manifests/v1"); res.StatusCode != http.StatusOK {
		t.Fatalf("its manifest: %s", res.Status)
	}
	r, _ := http.NewRequestWithContext(t.Context(), "GET", n.ociFace+"/v2/"+path+"/x/y/blobs/"+m.Layers[0].Digest.String(), nil)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return // broken off before the first byte
	}
	defer res.Body.Close()
	if got, _ := io.ReadAll(res.Body); len(got) > 0 {
		t.Errorf("%s, %d bytes of somebody else's image", res.Status, len(got))
	}
}

// Wrong bytes and wrong lengths of a registry end in an error.
func TestARegistryLies(t *testing.T) {
	for what, lie := range map[string]func(s *registryServer){"bytes": func(s *registryServer) { s.corrupt = true }, "length": func(s *registryServer) { s.lies = true }} {
		t.Run(what, func(t *testing.T) {
			s := startRegistry(t)
			at := s.pushModel(t)
			n := begin(t, ociSettings(t))
			s.set(func() { lie(s) })
			m, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: at, Wait: 30})
			if err != nil || m.State != cacheapi.Failed || !strings.Contains(m.Error, "has changed at the origin") || m.Path != "" {
				t.Errorf("%+v, %v", m, err)
			}
			s.set(func() { s.corrupt, s.lies = false, false })
			if _, err := n.fetched(t.Context(), cacheapi.Fetch{Model: at}); err != nil {
				t.Error(err)
			}
		})
	}
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

// An artifact is a model: its layers are files, read once for all nodes.
func TestModelsOfRegistries(t *testing.T) {
	s := startRegistry(t)
	at := s.pushModel(t)
	var all []*node
	known := []string{free(t), free(t), free(t)}
	for _, self := range known {
		conf := ociSettings(t)
		conf.Peer = &config.Peer{Listen: self, Advertise: self, Known: known, Insecure: true}
		all = append(all, begin(t, conf))
	}
	var done sync.WaitGroup
	for _, n := range all {
		done.Go(func() {
			m, err := n.fetched(t.Context(), cacheapi.Fetch{Model: at})
			if err != nil {
				t.Error(err)
				return
			}
			wantFile(t, filepath.Join(m.Path, "files", "model.gguf"), big)
			wantFile(t, filepath.Join(m.Path, "files", "config", "config.json"), []byte("{}"))
		})
	}
	done.Wait()
	if read, want := s.bytes(), int64(len(big)+2); read != want {
		t.Errorf("%d bytes were read of %d", read, want)
	}
	s.push(t, "o/image:v1", 1)
	if _, err := all[0].api.Fetch(t.Context(), cacheapi.Fetch{Model: "oci://" + s.host() + "/o/image:v1"}); status(err) != http.StatusBadRequest {
		t.Errorf("an image as a model: %v", err)
	}
	s.push(t, "o/other:v1", 1)
	s.set(func() { s.down = true })
	conf := all[0].conf
	all[0].Close()
	n := begin(t, conf)
	if m, err := n.fetched(t.Context(), cacheapi.Fetch{Model: at}); err != nil || !m.Stale {
		t.Errorf("while the registry is away: %+v, %v", m, err)
	}
	if err := pulls(t, n, s.path()+"/o/other:v1", authn.Anonymous); err == nil {
		t.Error("what was never read is served")
	}
}
