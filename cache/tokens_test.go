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

	"aliquot/cache/config"
	"aliquot/cache/fetch"
	"aliquot/cache/hubtest"
	"aliquot/cache/origin"
	"aliquot/internal/blob"
	"aliquot/internal/cacheapi"
)

// Without TLS the node's own token is not used for who asks as a peer.
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
		if res, _ := get(t, "GET", n.hf+"/Qwen/Qwen3/resolve/"+sha+"/config.json"); (res.StatusCode == http.StatusOK) != open {
			t.Errorf("%v: the face: %s", namespaces, res.Status)
		}
	}
}
