package cache

import (
	"fmt"
	"testing"

	"github.com/hashicorp/consul/api"

	"aliquot/cache/config"
	"aliquot/cache/hubtest"
	"aliquot/router/consultest"
)

// Models of a list in Consul come to every node that follows it, one node at a time, and
// stay pinned until they are taken from the list.
func TestPrefetch(t *testing.T) {
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
