package blob

import (
	"cmp"
	"hash/fnv"
	"slices"
)

// row is how many consecutive chunks are given to peers by turns before the turns begin
// again. What is before it need not be counted to find the owner of a chunk.
const row = 64

// Owners sorts peers by their claim to a chunk, the owner first. Every node that knows
// the same peers finds the same order. The others come by rendezvous hashing, so that
// the chunks of an owner that has failed fall to all of them.
//
// Of as many consecutive chunks as there are peers, each peer owns one. Nodes that fetch
// an object together read some neighbouring chunks at a time, and an owner of two of
// them would have to send twice as much as the others: with eight nodes and 24 chunks,
// owners by their hash alone take 1.6 times as long. The price is that other chunks than
// its own change owners when a peer comes or goes; those on their way may then be read
// from the origin twice.
func Owners(id string, chunk int, peers []string) []string {
	seeds := seedsOf(id, peers)
	owner := inTurn(seeds, chunk)
	order := make([]int, len(peers))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		switch {
		case a == owner:
			return -1
		case b == owner:
			return 1
		}
		return seeds[a].compare(seeds[b], chunk)
	})
	sorted := make([]string, len(peers))
	for i, p := range order {
		sorted[i] = seeds[p].peer
	}
	return sorted
}

// seed is a peer with the hash of its name and an object's.
type seed struct {
	peer string
	hash uint64
}

func seedsOf(id string, peers []string) []seed {
	seeds := make([]seed, len(peers))
	for i, p := range peers {
		h := fnv.New64a()
		h.Write([]byte(p))
		h.Write([]byte{0})
		h.Write([]byte(id))
		seeds[i] = seed{p, h.Sum64()}
	}
	return seeds
}

// compare orders by the claim to a chunk, the better one first.
func (s seed) compare(o seed, chunk int) int {
	return cmp.Or(cmp.Compare(o.claim(chunk), s.claim(chunk)), cmp.Compare(s.peer, o.peer))
}

// claim is the value of SplitMix64 for a chunk: FNV alone leaves the order of peers
// alike for neighbouring chunks.
func (s seed) claim(chunk int) uint64 {
	x := s.hash + uint64(chunk+1)*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// inTurn is the owner of a chunk: the peer with the best claim of those that own none of
// the chunks before it in its round.
func inTurn(seeds []seed, chunk int) (owner int) {
	if len(seeds) == 0 {
		return 0
	}
	owns := make([]bool, len(seeds))
	for c := chunk - chunk%row%len(seeds); c <= chunk; c++ {
		owner = -1
		for p, s := range seeds {
			if !owns[p] && (owner < 0 || s.compare(seeds[owner], c) < 0) {
				owner = p
			}
		}
		owns[owner] = true
	}
	return owner
}

// asked is how many peers are asked for a chunk before the origin. The second takes
// the place of an owner that has failed.
const asked = 2

// Route lists the peers to ask for a chunk, before the origin. It ends where the node
// itself would be asked: what it owns it reads from the origin. Peers that are down are
// left out, so that the next in order takes their place everywhere.
func Route(self, id string, chunk int, peers []string, down map[string]bool) []string {
	var route []string
	for _, p := range Owners(id, chunk, peers) {
		if p == self || len(route) == asked {
			break
		}
		if !down[p] {
			route = append(route, p)
		}
	}
	return route
}
