package aliquot

import (
	"context"
	"fmt"
	"io"
	stdlog "log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/docker/docker/api/types/image"
	dockerregistry "github.com/docker/docker/api/types/registry"
	"github.com/docker/docker/client"
	"github.com/google/go-containerregistry/pkg/registry"
)

// imageServer is a registry that counts the answers with blobs. With a password it asks for
// user and password.
type imageServer struct {
	*httptest.Server
	handler  http.Handler
	password string

	mu    sync.Mutex
	blobs int
	away  bool
}

func startImages(t *testing.T, password string) *imageServer {
	t.Helper()
	s := &imageServer{handler: registry.New(registry.Logger(stdlog.New(io.Discard, "", 0))), password: password}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *imageServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, password, _ := r.BasicAuth()
	s.mu.Lock()
	if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
		s.blobs++
	}
	away := s.away
	s.mu.Unlock()
	switch {
	case away:
		w.WriteHeader(http.StatusServiceUnavailable)
	case s.password != "" && password != s.password:
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
	default:
		s.handler.ServeHTTP(w, r)
	}
}

func (s *imageServer) read() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blobs
}

// push pushes the probe's image to the registry, under which name it returns, and its
// digest. The engine does not have it under that name afterwards.
func (s *imageServer) push(t *testing.T, c *client.Client) (name, digest string) {
	t.Helper()
	name = strings.TrimPrefix(s.URL, "http://") + "/t/probe:1"
	probeImage(t, c, name)
	auth, err := dockerregistry.EncodeAuthConfig(dockerregistry.AuthConfig{Username: "user", Password: s.password})
	if err != nil {
		t.Fatal(err)
	}
	progress, err := c.ImagePush(t.Context(), name, image.PushOptions{RegistryAuth: auth})
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(progress)
	progress.Close()
	if err != nil || strings.Contains(string(text), `"error"`) {
		t.Fatalf("%v: %s", err, text)
	}
	found, err := c.ImageInspect(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range found.RepoDigests {
		if strings.HasPrefix(d, strings.TrimSuffix(name, ":1")+"@") {
			_, digest, _ = strings.Cut(d, "@")
		}
	}
	s.forget(t, c)
	return name, digest
}

// forget removes all names of images that begin with the registry's or the cache's.
func (s *imageServer) forget(t *testing.T, c *client.Client) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // also when the test has ended
	all, err := c.ImageList(ctx, image.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		for _, name := range append(i.RepoTags, i.RepoDigests...) {
			if s.owns(name) {
				if _, err := c.ImageRemove(ctx, name, image.RemoveOptions{Force: true}); err != nil && !strings.Contains(err.Error(), "No such image") {
					t.Fatal(err)
				}
			}
		}
	}
}

func (s *imageServer) owns(name string) bool {
	host := strings.TrimPrefix(s.URL, "http://")
	return strings.HasPrefix(name, host+"/") || strings.Contains(name, "/"+strings.Replace(host, ":", "__", 1)+"/")
}

// names are the names of images that the engine has of the registry.
func (s *imageServer) names(t *testing.T, c *client.Client) (found []string) {
	t.Helper()
	all, err := c.ImageList(t.Context(), image.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		for _, name := range i.RepoTags {
			if s.owns(name) {
				found = append(found, name)
			}
		}
	}
	return found
}

// Images of tasks are pulled through the cache and have their own name, whoever the task's
// credentials are; a second node's pull, here a second pull, reads no layer of the registry.
func TestImagesArePulledThroughTheCache(t *testing.T) {
	for what, password := range map[string]string{"public": "", "private": "a-password-of-the-test"} {
		t.Run(what, func(t *testing.T) {
			c := engine(t)
			s := startImages(t, password)
			name, digest := s.push(t, c)
			t.Cleanup(func() { s.forget(t, c) })
			n := newCache(t, `oci_listen = "127.0.0.1:0"`)
			t.Cleanup(n.start())
			d := ship(t, n.config())
			auth := ""
			if password != "" {
				auth = fmt.Sprintf(`, "auth": [{"username": "user", "password": %q}]`, password)
			}
			read := 0
			for i, image := range []string{name, name, strings.TrimSuffix(name, ":1") + "@" + digest} {
				cfg := d.job(fmt.Sprintf(`{"image": %q, "network_mode": "none", "args": ["read", "/none"]%s}`, image, auth), nil, nil)
				d.run(cfg)
				d.event(t, "image "+image, "is pulled through the node's cache")
				if names := s.names(t, c); i < 2 && (len(names) != 1 || names[0] != name) {
					t.Errorf("the image is called %v", names)
				}
				if err := d.DestroyTask(cfg.ID, true); err != nil {
					t.Fatal(err)
				}
				if i == 0 {
					read = s.read()
				}
				s.forget(t, c)
			}
			if again := s.read() - read; again != 0 {
				t.Errorf("%d blobs were read again", again)
			}
		})
	}
}

// Where the cache cannot pull an image, the docker driver does as ever.
func TestImagesArePulledAsEver(t *testing.T) {
	c := engine(t)
	s := startImages(t, "")
	name, _ := s.push(t, c)
	t.Cleanup(func() { s.forget(t, c) })
	for what, settings := range map[string]string{"the endpoint is off": "", "no cache runs": "-"} {
		t.Run(what, func(t *testing.T) {
			n := newCache(t, strings.TrimSuffix(settings, "-"))
			if settings == "" {
				t.Cleanup(n.start())
			}
			d := ship(t, n.config())
			d.run(d.job(fmt.Sprintf(`{"image": %q, "network_mode": "none", "args": ["read", "/none"]}`, name), nil, nil))
			s.forget(t, c)
		})
	}
}
