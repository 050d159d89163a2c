package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aliquot.example/cache/config"
	"aliquot.example/cache/fetch"
	"aliquot.example/cache/hubtest"
	"aliquot.example/cache/origin"
	"aliquot.example/internal/blob"
	"aliquot.example/internal/cacheapi"
)

// Without TLS the node's own token is not used for peers.
func TestTheNodesTokenIsNotForStrangers(t *testing.T) {
	hub := startHub(t)
	sha := qwen(hub)
	hub.Set(func(h *hubtest.Hub) { h.Token = secret })
	conf := settings(t, hub.URL)
	conf.Hub.TokenFile = filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(conf.Hub.TokenFile, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	address := free(t)
	conf.Peer = &config.Peer{Listen: address, Advertise: address, Insecure: true}
	n := begin(t, conf)
	ask := fmt.Sprintf(`{"object":{"id":"sha256-%s","size":%d},"source":%q,"chunk":0,"offset":0}`, hubtest.SHA256(big), len(big), origin.Source("Qwen/Qwen3", sha, "model.safetensors"))
	res, err := http.Post("http://"+address+"/v1/chunk", "application/json", strings.NewReader(ask))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got, _ := io.ReadAll(res.Body); len(got) >= blob.ChunkSize || hub.Read() != 0 {
		t.Errorf("%s, %d bytes; %d were read from the origin", res.Status, len(got), hub.Read())
	}
	n.want(t) // with the node's token
}

// Whoever the origin refuses a file ends nobody else's download of it.
func TestARefusalIsTheAskers(t *testing.T) {
	hub := startHub(t)
	sha := qwen(hub)
	stall := make(chan struct{})
	hub.Set(func(h *hubtest.Hub) { h.Token, h.Stall = secret, stall })
	n := begin(t, settings(t, hub.URL))
	target := fetch.Target{Object: blob.Object{ID: "sha256-" + hubtest.SHA256(big), Size: int64(len(big))}, Source: origin.Source("Qwen/Qwen3", sha, "model.safetensors"), Token: secret}
	first, err := n.cache.Open(t.Context(), target, 0, blob.ChunkSize)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	refused := target
	refused.Token = "wrong"
	second, err := n.cache.Open(t.Context(), refused, blob.ChunkSize, 2*blob.ChunkSize)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if _, err := second.Read(make([]byte, 1)); !errors.Is(err, origin.ErrDenied) {
		t.Errorf("the wrong token: %v", err)
	}
	if err := second.Wait(); !errors.Is(err, origin.ErrDenied) {
		t.Errorf("waiting with the wrong token: %v", err)
	}
	hub.Set(func(h *hubtest.Hub) { h.Stall = nil })
	close(stall)
	if got, err := io.ReadAll(first); err != nil || !bytes.Equal(got, big[:blob.ChunkSize]) {
		t.Errorf("the right token: %d bytes, %v", len(got), err)
	}
	rest, err := n.cache.Open(t.Context(), target, 0, target.Object.Size)
	if err != nil {
		t.Fatal(err)
	}
	defer rest.Close()
	if err := rest.Wait(); err != nil {
		t.Errorf("the rest with the right token: %v", err)
	}
}

// The node's token counts for tasks of its namespaces alone, and for who has none only
// where it is for all.
func TestTheHubsTokenIsOfNamespaces(t *testing.T) {
	hub := startHub(t)
	sha := qwen(hub)
	hub.Set(func(h *hubtest.Hub) { h.Token = secret })
	for _, namespaces := range []config.Namespaces{{"*"}, {"ml"}} {
		conf := settings(t, hub.URL)
		conf.Hub.TokenFile, conf.Hub.Namespaces = filepath.Join(t.TempDir(), "token"), namespaces
		writeFile(t, conf.Hub.TokenFile, secret)
		n := begin(t, conf)
		if _, err := n.fetched(t.Context(), cacheapi.Fetch{Model: model, Namespace: "ml"}); err != nil {
			t.Errorf("%v: its own: %v", namespaces, err)
		}
		open := namespaces[0] == "*"
		if _, err := n.api.Fetch(t.Context(), cacheapi.Fetch{Model: model, Namespace: "web"}); (err == nil) != open {
			t.Errorf("%v: another: %v", namespaces, err)
		}
		if _, err := n.fetched(t.Context(), cacheapi.Fetch{Model: model, Namespace: "web", Token: secret}); err != nil {
			t.Errorf("%v: another with a token of its own: %v", namespaces, err)
		}
		if res, _ := get(t, "GET", n.hfURL+"/Qwen/Qwen3/resolve/"+sha+"/config.json"); (res.StatusCode == http.StatusOK) != open {
			t.Errorf("%v: the endpoint: %s", namespaces, res.Status)
		}
	}
}

// Whoever may publish on the Hub gets nothing of a private or gated repository by a commit
// that names a digest of it. The Hub itself does not serve what was never uploaded there.
func TestACommitIsNoRightToAnotherRepository(t *testing.T) {
	for name, private := range map[string]bool{"gated": false, "private": true} {
		t.Run(name, func(t *testing.T) {
			hub := startHub(t)
			qwen(hub)
			hub.Set(func(h *hubtest.Hub) { h.Token, h.Private = secret, private })
			n := begin(t, settings(t, hub.URL))
			m, err := n.fetched(t.Context(), cacheapi.Fetch{Model: model, Token: secret})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(m.Path, "hub", "models--Qwen--Qwen3", "blobs", hubtest.SHA256(big))); err != nil {
				t.Errorf("the layout of the Hub's own cache: %v", err)
			}
			hub.Push("Evil/Copy", "main", map[string]hubtest.File{"stolen": {Body: big, LFS: true}})
			hub.Delete("Qwen/Qwen3")
			hub.Set(func(h *hubtest.Hub) { h.Token, h.Private = "", false })
			res, err := http.Get(n.hfURL + "/Evil/Copy/resolve/main/stolen")
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if got, _ := io.ReadAll(res.Body); res.StatusCode == http.StatusOK && len(got) > 0 {
				t.Errorf("%s, %d bytes of another repository", res.Status, len(got))
			}
			if m, err := n.fetched(t.Context(), cacheapi.Fetch{Model: "hf://Evil/Copy"}); err == nil {
				t.Errorf("as a model: %+v", m)
			}
		})
	}
}

// What comes of a private repository is verified as what everybody may read.
func TestFilesOfAPrivateRepositoryAreVerified(t *testing.T) {
	for kind, lfs := range map[string]bool{"apart from Git": true, "in Git": false} {
		hub := startHub(t)
		hub.Push("Qwen/Qwen3", "main", map[string]hubtest.File{"file": {Body: []byte("weights"), LFS: lfs}})
		hub.Set(func(h *hubtest.Hub) { h.Token, h.Private, h.Corrupt = secret, true, true })
		n := begin(t, settings(t, hub.URL))
		ask := cacheapi.Fetch{Model: model, Token: secret}
		if m, err := n.fetched(t.Context(), ask); err == nil {
			t.Errorf("a file %s: wrong bytes are taken: %+v", kind, m)
		}
		hub.Set(func(h *hubtest.Hub) { h.Corrupt = false })
		if _, err := n.fetched(t.Context(), ask); err != nil {
			t.Errorf("a file %s: the right bytes: %v", kind, err)
		}
	}
}
