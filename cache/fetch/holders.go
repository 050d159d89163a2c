package fetch

import (
	"context"
	"hash/fnv"
	"maps"
	"slices"
	"sync"
	"time"

	"aliquot.example/internal/blob"
)

const (
	// holdersTTL is how long the answers count if some peer has the object, and noHoldersTTL if none
	// has. A peer that has since removed the object refuses the request for a chunk.
	holdersTTL, noHoldersTTL = time.Minute, 3 * time.Second
	// marksTimeout bounds the request. A peer that does not answer in time is not asked again for
	// unresponsiveTime.
	marksTimeout, unresponsiveTime = time.Second, 30 * time.Second
	// maxHolders is how many peers that have the object are asked before the origin.
	maxHolders = 2
)

// holdings are the whole objects of peers. A node asks all peers before it reads from an origin, so
// that an object that one node has is not read from the origin again.
type holdings struct {
	mu           sync.Mutex
	at           time.Time
	by           map[string][]uint64 // marks by peer, sorted
	unresponsive map[string]time.Time
	asking       chan struct{} // closed when all have answered; nil when no request is open
}

// Mark returns a hash of an object's ID, which represents the object in the list of a node's whole
// objects. A collision only causes a needless request.
func Mark(id string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(id))
	return h.Sum64()
}

// Marks returns the marks of all whole objects of this node.
func (c *Cache) Marks() (marks []uint64) {
	for _, id := range c.o.Store.IDs() {
		marks = append(marks, Mark(id))
	}
	return marks
}

// holders returns the peers to ask for a chunk because they have the whole object.
func (c *Cache) holders(ctx context.Context, id string, chunk int) []string {
	if c.o.Network == nil {
		return nil
	}
	h := &c.held
	have := h.peersWith(Mark(id), holdersTTL)
	if have == nil {
		h.mu.Lock()
		if time.Since(h.at) >= noHoldersTTL {
			if h.asking == nil {
				h.asking = make(chan struct{})
				go c.askPeers(h)
			}
			answered := h.asking
			h.mu.Unlock()
			select {
			case <-answered:
			case <-ctx.Done():
				return nil
			}
			h.mu.Lock()
		}
		h.mu.Unlock()
		have = h.peersWith(Mark(id), holdersTTL)
	}
	have = slices.DeleteFunc(have, c.isDown)
	have = blob.Owners(id, chunk, have)
	return have[:min(len(have), maxHolders)]
}

// peersWith returns the peers that have an object, by answers that are younger than age.
func (h *holdings) peersWith(mark uint64, age time.Duration) (peers []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.at) >= age {
		return nil
	}
	for peer, marks := range h.by {
		if _, ok := slices.BinarySearch(marks, mark); ok {
			peers = append(peers, peer)
		}
	}
	return peers
}

// askPeers asks all peers for their whole objects. A peer that does not answer counts as having none.
func (c *Cache) askPeers(h *holdings) {
	self, peers := c.o.Network.Peers()
	by, silent := map[string][]uint64{}, []string{}
	var mu sync.Mutex
	var asked sync.WaitGroup
	for _, peer := range peers {
		h.mu.Lock()
		skipped := time.Now().Before(h.unresponsive[peer])
		h.mu.Unlock()
		if peer == self || skipped || c.isDown(peer) {
			continue
		}
		asked.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), marksTimeout)
			defer cancel()
			marks, err := c.o.Network.Marks(ctx, peer)
			if err != nil {
				c.o.Log.Debug("cannot read which objects a peer has", "peer", peer, "error", err)
			}
			slices.Sort(marks)
			mu.Lock()
			defer mu.Unlock()
			if by[peer] = marks; err != nil {
				silent = append(silent, peer)
			}
		})
	}
	asked.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	h.by, h.at = by, now
	if h.unresponsive == nil {
		h.unresponsive = map[string]time.Time{}
	}
	maps.DeleteFunc(h.unresponsive, func(_ string, until time.Time) bool { return now.After(until) })
	for _, peer := range silent {
		h.unresponsive[peer] = now.Add(unresponsiveTime)
	}
	close(h.asking)
	h.asking = nil
}

// isDown reports whether a peer must not be asked at the moment.
func (c *Cache) isDown(peer string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Before(c.down[peer])
}
