package dispatch

// index records which blocks of prompts each replica was sent, to predict how much of a request's
// prompt is in a replica's cache. It is only a prediction: the engine's cache evicts by its own
// rules.
//
// The blocks of a replica form a prefix cache in least-recently-used order. The end of a prompt is evicted
// before its beginning. All prefix caches share one array, and blocks with the same hash are linked, so
// that a prompt is matched against a thousand replicas in one pass over its blocks.
type index struct {
	blocks     []block
	free       []int32
	holders    map[uint64]int32 // hash to the first block with that hash
	caches     []prefixCache
	freeCaches []int32 // caches of removed replicas
	round      uint64  // number of the current match
}

// block is one replica's copy of a hash. Links are indices into index.blocks, or -1 at the end.
type block struct {
	hash         uint64
	cache        int32
	newer, older int32 // in the cache
	prev, next   int32 // other holders of the same hash
}

// prefixCache holds the blocks that one replica is expected to have in its cache.
type prefixCache struct {
	newest, oldest int32
	n              int
	hit            int    // leading blocks that matched in round
	round          uint64 // number of the match that set hit
}

const (
	// indexBlocks limits the blocks of a service over all its replicas. Each takes 32 bytes in the
	// array and about as much in the map of hashes, about 64 MiB in total at most.
	indexBlocks = 1 << 19
	// unknownBlocks is the assumed number of blocks of a cache of unknown size.
	unknownBlocks = 800
)

func newIndex() index { return index{holders: map[uint64]int32{}} }

// open returns an empty cache. It shrinks the other caches to their new maximum.
func (x *index) open() int32 {
	var at int32
	if n := len(x.freeCaches); n > 0 {
		at = x.freeCaches[n-1]
		x.freeCaches = x.freeCaches[:n-1]
	} else {
		x.caches = append(x.caches, prefixCache{newest: -1, oldest: -1})
		at = int32(len(x.caches) - 1)
	}
	for i := range x.caches {
		x.shrink(int32(i), x.part())
	}
	return at
}

// part returns the maximum number of blocks of one cache.
func (x *index) part() int { return indexBlocks / max(1, len(x.caches)-len(x.freeCaches)) }

// close empties a cache and releases it.
func (x *index) close(at int32) {
	x.clear(at)
	x.freeCaches = append(x.freeCaches, at)
}

// clear empties the cache of a replica whose engine has lost its own.
func (x *index) clear(at int32) { x.shrink(at, 0) }

// shrink removes the oldest blocks of a cache until n are left.
func (x *index) shrink(at int32, n int) {
	c := &x.caches[at]
	for c.n > n {
		i := c.oldest
		x.unlink(i)
		b := &x.blocks[i]
		switch {
		case b.prev >= 0:
			x.blocks[b.prev].next = b.next
		case b.next >= 0:
			x.holders[b.hash] = b.next
		default:
			delete(x.holders, b.hash)
		}
		if b.next >= 0 {
			x.blocks[b.next].prev = b.prev
		}
		x.free = append(x.free, i)
	}
}

// unlink removes a block from its cache.
func (x *index) unlink(i int32) {
	b := x.blocks[i]
	c := &x.caches[b.cache]
	if b.newer >= 0 {
		x.blocks[b.newer].older = b.older
	} else {
		c.newest = b.older
	}
	if b.older >= 0 {
		x.blocks[b.older].newer = b.newer
	} else {
		c.oldest = b.newer
	}
	c.n--
}

// link adds a block to its cache as the newest.
func (x *index) link(i int32) {
	b := &x.blocks[i]
	c := &x.caches[b.cache]
	b.newer, b.older = -1, c.newest
	if c.newest >= 0 {
		x.blocks[c.newest].newer = i
	} else {
		c.oldest = i
	}
	c.newest = i
	c.n++
}

// add records that a replica has the blocks of a prompt. room is the number of blocks that its
// cache holds.
func (x *index) add(at int32, hashes []uint64, room int) {
	room = min(room, x.part())
	// The last blocks are added first, so that they are evicted first.
	for i := min(len(hashes), room) - 1; i >= 0; i-- {
		x.put(at, hashes[i])
	}
	x.shrink(at, room)
}

func (x *index) put(at int32, hash uint64) {
	head, held := x.holders[hash]
	if held {
		for i := head; i >= 0; i = x.blocks[i].next {
			if x.blocks[i].cache == at {
				x.unlink(i)
				x.link(i)
				return
			}
		}
	} else {
		head = -1
	}
	var i int32
	if n := len(x.free); n > 0 {
		i = x.free[n-1]
		x.free = x.free[:n-1]
	} else {
		i = int32(len(x.blocks))
		x.blocks = append(x.blocks, block{})
	}
	x.blocks[i] = block{hash: hash, cache: at, prev: -1, next: head}
	if head >= 0 {
		x.blocks[head].prev = i
	}
	x.holders[hash] = i
	x.link(i)
}

// match finds how many leading blocks of a prompt each replica has. hits returns the results until
// the next match.
func (x *index) match(hashes []uint64) {
	x.round++
	for depth, hash := range hashes {
		found := false
		at, held := x.holders[hash]
		if !held {
			return
		}
		for ; at >= 0; at = x.blocks[at].next {
			c := &x.caches[x.blocks[at].cache]
			if c.round != x.round {
				if depth > 0 {
					continue
				}
				c.round, c.hit = x.round, 0
			}
			if c.hit == depth {
				c.hit, found = depth+1, true
			}
		}
		if !found {
			return
		}
	}
}

// hits returns how many leading blocks of the last matched prompt a cache has.
func (x *index) hits(at int32) int {
	if c := &x.caches[at]; c.round == x.round {
		return c.hit
	}
	return 0
}
