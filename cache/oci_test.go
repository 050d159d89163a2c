package cache

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"aliquot.example/cache/config"
	"aliquot.example/cache/hubtest"
	"aliquot.example/internal/cacheapi"
)

// pulls reads an image through an endpoint with go-containerregistry's client, all of it and
// verified.
func pulls(t *testing.T, n *node, path string, auth authn.Authenticator) error {
	t.Helper()
	ref, err := name.ParseReference(strings.TrimPrefix(n.ociURL, "http://") + "/" + path)
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
func TestImagesThroughTheEndpoint(t *testing.T) {
	t.Parallel()
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
	at := n.ociURL + "/v2/" + s.path() + "/o/image/blobs/" + layer.Digest.String()
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
		if res, body := get(t, "GET", n.ociURL+"/v2/"+s.path()+path); res.StatusCode != want || !json.Valid(body) {
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
	_, before := get(t, "GET", n.ociURL+"/v2/"+s.path()+"/o/image/manifests/v1")
	img, _ := s.push(t, "o/image:v1", 1)
	want, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	if _, after := get(t, "GET", n.ociURL+"/v2/"+s.path()+"/o/image/manifests/v1"); !bytes.Equal(after, want) || bytes.Equal(after, before) {
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
		if want := strings.TrimPrefix(n.ociURL, "http://") + "/" + s.path() + "/secret/image:v1"; p.Name != want {
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

// pulledPrivate starts a registry, and a node that has pulled the private image
// secret/image:v1 from it.
func pulledPrivate(t *testing.T) (s *registryServer, n *node, img v1.Image, m *v1.Manifest) {
	t.Helper()
	s = startRegistry(t)
	s.set(func() { s.private = "/secret/" })
	img, _ = s.push(t, "secret/image:v1", 1)
	n = begin(t, ociSettings(t))
	if err := pulls(t, n, s.path()+"/secret/image:v1", &authn.Basic{Username: registryUser, Password: registryPassword}); err != nil {
		t.Fatal(err)
	}
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	return s, n, img, m
}

// Whoever names a digest in a manifest of a registry of its own gets nothing of what came
// from elsewhere.
func TestADigestIsNoRight(t *testing.T) {
	_, n, img, m := pulledPrivate(t)
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
	if res, _ := get(t, "GET", n.ociURL+"/v2/"+path+"/x/y/manifests/v1"); res.StatusCode != http.StatusOK {
		t.Fatalf("its manifest: %s", res.Status)
	}
	r, _ := http.NewRequestWithContext(t.Context(), "GET", n.ociURL+"/v2/"+path+"/x/y/blobs/"+m.Layers[0].Digest.String(), nil)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return // broken off before the first byte
	}
	defer res.Body.Close()
	if got, _ := io.ReadAll(res.Body); len(got) > 0 {
		t.Errorf("%s, %d bytes of somebody else's image", res.Status, len(got))
	}
}

// Whoever may push to a repository gets nothing of another one of the same registry,
// whatever its manifests name: an image, an artifact, a model.
func TestARepositoryIsNoRightToAnother(t *testing.T) {
	s, n, _, m := pulledPrivate(t)
	stolen := m.Layers[0]
	s.set(func() { s.linked = map[string]string{stolen.Digest.String(): "/v2/secret/"} })
	part := []any{map[string]any{
		"mediaType": "application/vnd.cncf.model.weight.v1.raw", "digest": stolen.Digest.String(), "size": stolen.Size,
		"annotations": map[string]string{"org.opencontainers.image.title": "model.gguf"},
	}}
	const image, artifact = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.artifact.manifest.v1+json"
	for tag, c := range map[string]struct{ kind, parts string }{
		"image": {image, "layers"}, "smuggled": {image, "blobs"}, "artifact": {artifact, "blobs"},
	} {
		s.manifest(t, "x/y", tag, c.kind, map[string]any{"schemaVersion": 2, "mediaType": c.kind, c.parts: part})
		if res, _ := get(t, "GET", n.ociURL+"/v2/"+s.path()+"/x/y/manifests/"+tag); res.StatusCode != http.StatusOK {
			t.Fatalf("%s: its manifest: %s", tag, res.Status)
		}
		r, _ := http.NewRequestWithContext(t.Context(), "GET", n.ociURL+"/v2/"+s.path()+"/x/y/blobs/"+stolen.Digest.String(), nil)
		if res, err := http.DefaultClient.Do(r); err == nil { // it may be broken off before the first byte
			if got, _ := io.ReadAll(res.Body); res.StatusCode == http.StatusOK && len(got) > 0 {
				t.Errorf("%s: %s, %d bytes of a private image", tag, res.Status, len(got))
			}
			res.Body.Close()
		}
		if m, err := n.fetched(t.Context(), cacheapi.Fetch{Model: "oci://" + s.host() + "/x/y:" + tag}); err == nil {
			t.Errorf("%s: as a model: %+v", tag, m)
		}
	}
}

// A reference that is neither a tag nor a digest is not sent to a registry and not stored.
func TestWhatIsNoTagIsRefused(t *testing.T) {
	s := startRegistry(t)
	s.push(t, "o/image:v1", 1)
	n := begin(t, ociSettings(t))
	for _, tag := range []string{"v1%3Frestricted", "v1%3F1", "-v1", ".v1", "=v1", strings.Repeat("a", 129), "sha256:12", "sha512:" + strings.Repeat("0", 128)} {
		if res, body := get(t, "GET", n.ociURL+"/v2/"+s.path()+"/o/image/manifests/"+tag); res.StatusCode != http.StatusNotFound || !json.Valid(body) {
			t.Errorf("%s: %s %s", tag, res.Status, body)
		}
		if _, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: "oci://" + s.host() + "/o/image@" + tag}); status(err) != http.StatusBadRequest {
			t.Errorf("%s as a model: %v", tag, err)
		}
	}
	kept, err := filepath.Glob(filepath.Join(n.conf.Dir, "listings", "*.json"))
	if err != nil || len(kept) != 0 {
		t.Errorf("%v, %v", kept, err)
	}
}

// Wrong bytes and wrong lengths of a registry end in an error.
func TestARegistryLies(t *testing.T) {
	for what, corrupt := range map[string]func(s *registryServer){"bytes": func(s *registryServer) { s.corrupt = true }, "length": func(s *registryServer) { s.lies = true }} {
		t.Run(what, func(t *testing.T) {
			s := startRegistry(t)
			at := s.pushModel(t)
			n := begin(t, ociSettings(t))
			s.set(func() { corrupt(s) })
			m, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: at, Wait: 30})
			if err != nil || m.State != cacheapi.Failed || !strings.Contains(m.Error, "changed at the origin") || m.Path != "" {
				t.Errorf("%+v, %v", m, err)
			}
			s.set(func() { s.corrupt, s.lies = false, false })
			// Chunks that were asked for while it lied may still end the next attempt.
			eventually(t, "right model", func() bool {
				_, err := n.fetched(t.Context(), cacheapi.Fetch{Model: at})
				return err == nil
			})
		})
	}
}

// A task's own login opens a model of a registry, for that task alone.
func TestALoginOfATaskIsItsOwn(t *testing.T) {
	s := startRegistry(t)
	at := s.pushModel(t)
	s.set(func() { s.private = "/m/" })
	n := begin(t, ociSettings(t))
	for range 2 { // before the node has it, and then
		for _, token := range []string{"", cacheapi.Login(registryUser, "another")} {
			if _, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: at, Token: token}); status(err) != http.StatusForbidden {
				t.Errorf("with %q: %v", token, err)
			}
		}
		m, err := n.fetched(t.Context(), cacheapi.Fetch{Model: at, Token: cacheapi.Login(registryUser, registryPassword)})
		if err != nil {
			t.Fatal(err)
		}
		wantFile(t, filepath.Join(m.Path, "files", "model.gguf"), big)
	}
}

// An artifact is a model: its layers are files, read once for all nodes.
func TestModelsOfRegistries(t *testing.T) {
	t.Parallel()
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
