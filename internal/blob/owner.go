package blob

import (
	"cmp"
	"hash/fnv"
	"slices"
	"strconv"
)

// Owners sorts peers by their claim to a chunk, the owner first. Every node that knows
// the same peers finds the same order, and a peer that comes or goes changes only what
// is its own.
func Owners(id string, chunk int, peers []string) []string {
	type claim struct {
		peer  string
		score uint64
	}
	claims := make([]claim, len(peers))
	for i, p := range peers {
		h := fnv.New64a()
		h.Write([]byte(p))
		h.Write([]byte{0})
		h.Write([]byte(id))
		h.Write([]byte{0})
		h.Write([]byte(strconv.Itoa(chunk)))
		claims[i] = claim{p, mix(h.Sum64())}
	}
	slices.SortFunc(claims, func(a, b claim) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.peer, b.peer))
	})
	sorted := make([]string, len(claims))
	for i, c := range claims {
		sorted[i] = c.peer
	}
	return sorted
}

// mix spreads what differs in few bits over all: FNV alone leaves the order of peers
// alike for neighbouring chunks. It is the finalizer of SplitMix64.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
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
