package cache

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"aliquot.example/cache/certtest"
	"aliquot.example/cache/config"
	"aliquot.example/cache/hubtest"
	"aliquot.example/e2e/consultest"
	"aliquot.example/internal/cacheapi"
)

// Models of a list in Consul come to every node that follows it, one node at a time, and
// stay pinned until they are taken from the list.
func TestPrefetch(t *testing.T) {
	t.Parallel()
	server, err := consultest.Start(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	hub := startHub(t)
	qwen(hub)
	hub.Push("a/other", "main", map[string]hubtest.File{"config.json": {Body: []byte("other")}})
	write := func(list string) {
		t.Helper()
		if _, err := server.Client.KV().Put(&api.KVPair{Key: "aliquot/prefetch/h100", Value: []byte(list)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	write(`["hf://Qwen/Qwen3"]`)
	var all []*node
	for _, groups := range [][]string{{"all", "h100"}, {"h100"}, {"all"}} {
		conf := settings(t, hub.URL)
		conf.Consul = config.Consul{Address: server.Address}
		conf.Prefetch = config.Prefetch{Key: "aliquot/prefetch", Groups: groups, AtOnce: 1}
		all = append(all, begin(t, conf))
	}
	pinned := func(n *node) int { return len(n.Status().Pins[prefetchOwner]) }
	at := map[*node]int{}
	await := func(count int) {
		t.Helper()
		for _, n := range all[:2] {
			at[n] = n.log.await(t, at[n], fmt.Sprintf("msg=prefetched models=%d", count))
			if got := pinned(n); got != count {
				t.Errorf("%d models are pinned, want %d", got, count)
			}
		}
	}
	await(1)
	write(`["hf://Qwen/Qwen3", "hf://a/other", "hf://a/none"]`)
	await(2) // beside one that does not exist
	write(`[]`)
	await(0)
	if pinned(all[2]) != 0 {
		t.Error("a node that does not follow the list has its models")
	}
}

// What a job compiled on one node comes to those that follow a list, and stays there.
// Items of another job, or that are none, do not keep the rest of the list away.
func TestPrefetchOfCompileCaches(t *testing.T) {
	t.Parallel()
	server, err := consultest.Start(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	list := `["compiled://team/chat", "nonsense", "image://a/b:1", "compiled://team/none"]`
	if _, err := server.Client.KV().Put(&api.KVPair{Key: "aliquot/prefetch/all", Value: []byte(list)}, nil); err != nil {
		t.Fatal(err)
	}
	hub, ca := startHub(t), certtest.New(t)
	known := []string{free(t), free(t)}
	node := func(i int, follow bool) *node {
		conf := settings(t, hub.URL)
		conf.Peer = &config.Peer{Listen: known[i], Advertise: known[i], Known: known, CA: ca.File, Name: "aliquot-cache"}
		conf.Peer.Cert, conf.Peer.Key = ca.Issue(t, "aliquot-cache")
		if follow {
			conf.Consul = config.Consul{Address: server.Address}
			conf.Prefetch = config.Prefetch{Key: "aliquot/prefetch", Groups: []string{"all"}, AtOnce: 1}
		}
		return begin(t, conf)
	}
	first := node(0, false)
	chat, other := strings.Repeat("a1", 32), strings.Repeat("b2", 32)
	archive := hubtest.Bytes(7, 3<<20)
	for key, scope := range map[string]string{chat: cacheapi.Scope("team", "chat"), other: cacheapi.Scope("team", "other")} {
		if err := first.api.Publish(t.Context(), key, scope, bytes.NewReader(archive), int64(len(archive))); err != nil {
			t.Fatal(err)
		}
	}
	second := node(1, true)
	eventually(t, "compile cache of the list", func() bool { return len(second.Status().Pins[prefetchOwner]) == 1 })
	first.Close()
	if got, code := snapshot(t, second, chat); code != http.StatusOK || !bytes.Equal(got, archive) {
		t.Errorf("the other node has %d bytes, %d", len(got), code)
	}
	if _, code := snapshot(t, second, other); code != http.StatusNotFound {
		t.Errorf("that of another job came too: %d", code)
	}
	eventually(t, "word of what is wrong with the list", func() bool {
		said := second.log.String()
		return strings.Contains(said, `nonsense`) && strings.Contains(said, "prefetch.docker is off")
	})
}
