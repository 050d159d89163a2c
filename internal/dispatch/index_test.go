package dispatch

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// The index says of every replica what a plain list of its blocks by last use says,
// and holds no more than it may.
func TestIndexMatchesPlainLists(t *testing.T) {
	const replicas, room = 4, 6
	rapid.Check(t, func(t *rapid.T) {
		x := newIndex()
		var at [replicas]int32
		var lists [replicas][]uint64 // newest first
		for i := range at {
			at[i] = x.open()
		}
		// Chains that share beginnings, as prompts do.
		chain := func(t *rapid.T) []uint64 {
			var out []uint64
			h := uint64(0)
			for range rapid.IntRange(0, 8).Draw(t, "length") {
				h = h*10 + uint64(rapid.IntRange(1, 2).Draw(t, "block"))
				out = append(out, h)
			}
			return out
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				i, c := rapid.IntRange(0, replicas-1).Draw(t, "replica"), chain(t)
				x.add(at[i], c, room)
				kept := slices.Clone(c[:min(len(c), room)])
				for _, h := range lists[i] {
					if !slices.Contains(kept, h) {
						kept = append(kept, h)
					}
				}
				lists[i] = kept[:min(len(kept), room)]
			},
			"clear": func(t *rapid.T) {
				i := rapid.IntRange(0, replicas-1).Draw(t, "replica")
				x.clear(at[i])
				lists[i] = nil
			},
			"replace": func(t *rapid.T) {
				i := rapid.IntRange(0, replicas-1).Draw(t, "replica")
				x.close(at[i])
				at[i], lists[i] = x.open(), nil
			},
			"": func(t *rapid.T) {
				c := chain(t)
				x.match(c)
				held := 0
				for i := range at {
					want := 0
					for want < len(c) && slices.Contains(lists[i], c[want]) {
						want++
					}
					if got := x.hits(at[i]); got != want {
						t.Fatalf("replica %d: %d blocks of %v match, want %d of %v", i, got, c, want, lists[i])
					}
					if x.caches[at[i]].n != len(lists[i]) {
						t.Fatalf("replica %d: shelf of %d, want %d", i, x.caches[at[i]].n, len(lists[i]))
					}
					held += len(lists[i])
				}
				if len(x.blocks)-len(x.free) != held || len(x.blocks) > replicas*(room+8) || len(x.holders) > held {
					t.Fatalf("%d blocks, %d of them free, %d hashes; want %d", len(x.blocks), len(x.free), len(x.holders), held)
				}
			},
		})
	})
}

func TestIndexIsBoundedOverAllReplicas(t *testing.T) {
	x := newIndex()
	hash := uint64(0)
	for range 3 {
		at := x.open()
		for range 40 {
			var blocks []uint64
			for range 15000 {
				hash++
				blocks = append(blocks, hash)
			}
			x.add(at, blocks, 1<<20)
		}
	}
	if held := len(x.blocks) - len(x.free); held > indexBlocks || len(x.blocks) > indexBlocks+15000 {
		t.Errorf("%d blocks are held in an array of %d, the bound is %d", held, len(x.blocks), indexBlocks)
	}
}

func TestAReplicaThatLostItsCacheIsNotBelieved(t *testing.T) {
	q := New(Policy{Mode: Tokens})
	q.Put(Replica{ID: "r", Class: "h100", KV: 400_000})
	blocks := []uint64{1, 2, 3, 4, 5, 6, 7, 8}
	hit := func(cached int) int {
		k := ask(0, tokens(4200, 10), func(r *Request) { r.Blocks = blocks })
		submit(t, q, epoch, k)
		drain(q, epoch)
		believed := k.entry.hit
		q.Settle(k, 4200, cached, 10)
		q.Finish(k, Served, 0, epoch)
		return believed
	}
	if first, second := hit(0), hit(4096); first != 0 || second != 4096 {
		t.Fatalf("hits of %d and %d are believed, want 0 and 4096", first, second)
	}
	for range maxCacheMisses {
		hit(0)
	}
	if n := hit(0); n != 0 {
		t.Errorf("after %d requests without a hit %d tokens are believed", maxCacheMisses, n)
	}
}
