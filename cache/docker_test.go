package cache

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"aliquot.example/cache/config"
	"aliquot.example/cache/hubtest"
)

// docker runs docker's command, or skips the test where no engine runs.
func docker(t *testing.T, stdin []byte, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), tool(t, "docker"), args...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func mustDocker(t *testing.T, stdin []byte, args ...string) string {
	t.Helper()
	out, err := docker(t, stdin, args...)
	if err != nil {
		t.Fatalf("docker %v: %v: %s", args, err, out)
	}
	return out
}

// pushByDocker makes an image of one file with docker, pushes it to a registry and removes
// it from the engine. It returns the image's ID and digest.
func pushByDocker(t *testing.T, image string) (id, digest string) {
	t.Helper()
	if out, err := docker(t, nil, "info"); err != nil {
		t.Skipf("no docker engine runs, scripts/setup starts one: %.200s", out)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	body := hubtest.Bytes(uint64(time.Now().UnixNano()), 9<<20)
	if err := w.WriteHeader(&tar.Header{Name: "weights", Mode: 0o644, Size: int64(len(body))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	id = mustDocker(t, archive.Bytes(), "import", "-", image)
	drop(t, image)
	mustDocker(t, nil, "push", image)
	digest = mustDocker(t, nil, "image", "inspect", "-f", "{{index .RepoDigests 0}}", image)
	mustDocker(t, nil, "rmi", image)
	_, digest, _ = strings.Cut(digest, "@")
	return id, digest
}

// drop removes an image when the test ends.
func drop(t *testing.T, image string) {
	t.Helper()
	t.Cleanup(func() { _ = exec.Command("docker", "rmi", image).Run() })
}

// Docker pulls through the endpoint by tag and by digest, with its daemon as it is, and a second
// pull reads nothing of the registry's blobs.
func TestDockerPulls(t *testing.T) {
	t.Parallel()
	s := startRegistry(t)
	id, digest := pushByDocker(t, s.host()+"/t/plain:1")
	n := begin(t, ociSettings(t))
	endpoint := strings.TrimPrefix(n.ociURL, "http://") + "/" + s.path() + "/t/plain"
	read := int64(0)
	for _, what := range []string{":1", "@" + digest, ":1"} {
		drop(t, endpoint+what)
		mustDocker(t, nil, "pull", endpoint+what)
		if got := mustDocker(t, nil, "image", "inspect", "-f", "{{.Id}}", endpoint+what); got != id {
			t.Errorf("%s: the image is %s, want %s", what, got, id)
		}
		mustDocker(t, nil, "rmi", endpoint+what)
		if read == 0 {
			read = s.bytes()
		}
	}
	if again := s.bytes() - read; read < 9<<20 || again != 0 {
		t.Errorf("%d bytes were read, and then %d more", read, again)
	}
	if out, err := docker(t, nil, "pull", endpoint+":none"); err == nil || !strings.Contains(out, "manifest unknown") && !strings.Contains(out, "not found") {
		t.Errorf("a tag that is not there: %v: %s", err, out)
	}
	s.set(func() { s.down = true })
	drop(t, endpoint+":1")
	mustDocker(t, nil, "pull", endpoint+":1") // while the registry is away
}

// Docker's own credentials go to the registry, and a ticket of the socket opens what the
// namespace may read.
func TestDockerSignsIn(t *testing.T) {
	t.Parallel()
	s := startRegistry(t)
	id, _ := pushByDocker(t, s.host()+"/secret/plain:1")
	s.set(func() { s.private = "/secret/" })
	conf := ociSettings(t)
	conf.OCI = config.OCI{}
	n := begin(t, conf)
	endpoint := strings.TrimPrefix(n.ociURL, "http://")
	image := endpoint + "/" + s.path() + "/secret/plain:1"
	if out, err := docker(t, nil, "pull", image); err == nil {
		t.Errorf("nobody may pull, and docker did: %s", out)
	}
	own := t.TempDir()
	mustDocker(t, []byte(registryPassword), "--config", own, "login", "-u", registryUser, "--password-stdin", endpoint)
	drop(t, image)
	mustDocker(t, nil, "--config", own, "pull", image)
	if got := mustDocker(t, nil, "image", "inspect", "-f", "{{.Id}}", image); got != id {
		t.Errorf("the image is %s, want %s", got, id)
	}
	hidden(t, n, registryPassword)
}

// Clients that begin with a question for the registry itself learn where to sign in.
func TestTheRegistryEndpointAsksToSignIn(t *testing.T) {
	n := begin(t, ociSettings(t))
	res, _ := get(t, "GET", n.ociURL+"/v2/")
	realm := between(res.Header.Get("WWW-Authenticate"), `realm="`, `"`)
	if res.StatusCode != http.StatusUnauthorized || realm != n.ociURL+"/token" {
		t.Fatalf("%s %v", res.Status, res.Header)
	}
	_, body := get(t, "GET", realm+"?service=aliquot-cache&scope=repository:x/y:pull")
	var said struct {
		Token string
	}
	if err := json.Unmarshal(body, &said); err != nil || said.Token == "" {
		t.Fatalf("%s, %v", body, err)
	}
	for token, want := range map[string]int{said.Token: 200, "made-up": 401, said.Token + "x": 401} {
		if res, _ := get(t, "GET", n.ociURL+"/v2/", "Authorization", "Bearer "+token); res.StatusCode != want {
			t.Errorf("%.20s: %s", token, res.Status)
		}
	}
	other := begin(t, ociSettings(t))
	if res, _ := get(t, "GET", other.ociURL+"/v2/", "Authorization", "Bearer "+said.Token); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("another process: %s", res.Status)
	}
}

// An image of a list is pulled through the caches: the second node, which here has the same
// engine, reads nothing of the registry's blobs.
func TestPrefetchedImagesAreReadOnce(t *testing.T) {
	t.Parallel()
	s := startRegistry(t)
	image := s.host() + "/t/plain:1"
	id, digest := pushByDocker(t, image)
	known := []string{free(t), free(t)}
	read := int64(0)
	for i, name := range []string{image, strings.TrimSuffix(image, ":1") + "@" + digest} {
		conf := ociSettings(t)
		conf.Peer = &config.Peer{Listen: known[i], Advertise: known[i], Known: known, Insecure: true}
		conf.Prefetch = config.Prefetch{Models: []string{"image://" + name}, Docker: "/var/run/docker.sock"}
		n := begin(t, conf)
		drop(t, name)
		n.log.await(t, 0, `msg="pulled an image"`)
		if got := mustDocker(t, nil, "image", "inspect", "-f", "{{.Id}} {{.RepoTags}} {{.RepoDigests}}", name); !strings.HasPrefix(got, id) || strings.Contains(got, "__") {
			t.Errorf("%s is %s", name, got)
		}
		if strings.Contains(n.log.String(), "cannot pull an image through the cache") {
			t.Errorf("%s was not pulled through the cache", name)
		}
		mustDocker(t, nil, "rmi", name)
		if i == 0 {
			read = s.bytes()
		}
	}
	if again := s.bytes() - read; read < 9<<20 || again != 0 {
		t.Errorf("%d bytes were read, and then %d more", read, again)
	}
}
