// Package fetch fetches objects: from a peer of the cluster that has the object or is responsible
// for the chunk, otherwise from the origin. Each chunk has an owner among the nodes. Only the owner
// reads it from the origin, so a cluster reads an object once.
package fetch

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"aliquot.example/cache/origin"
	"aliquot.example/cache/store"
	"aliquot.example/internal/blob"
)

// Target is an object and its source.
type Target struct {
	Object blob.Object `json:"object"`
	Source string      `json:"source"`
	// Token is the client's token for the origin, "" for none. It is never stored.
	Token string `json:"token,omitempty"`
}

// Network connects a node with its peers.
type Network interface {
	// Peers returns this node's name and all live nodes, including this one.
	Peers() (self string, peers []string)
	// Chunk asks a peer for a part of a chunk. The body ends with io.ErrUnexpectedEOF if the peer
	// breaks off. After the end of the body, sum returns the CRC-32C of the whole chunk.
	Chunk(ctx context.Context, peer string, q ChunkRequest) (body io.ReadCloser, sum func() uint32, err error)
	// Marks asks a peer for the marks of its whole objects.
	Marks(ctx context.Context, peer string) ([]uint64, error)
}

// ChunkRequest is a request from one cache to another.
type ChunkRequest struct {
	Target
	Chunk int `json:"chunk"`
	// Offset is where the wanted bytes begin in the chunk.
	Offset int64 `json:"offset"`
	// Held makes the peer refuse if it would have to fetch the chunk itself.
	Held bool `json:"held,omitempty"`
}

// ErrBusy means that the peer itself waits for the chunk, or does not have it.
var ErrBusy = errors.New("the peer does not have the data yet")

// Options configure a cache.
type Options struct {
	Store   *store.Store
	Origins origin.Set
	Network Network // nil if there are no peers
	// OriginRate and PeerRate bound what is read from origins and sent to peers, in bytes per
	// second; 0 for no bound.
	OriginRate, PeerRate int64
	// Connections bounds concurrent requests to origins; 0 for 16.
	Connections int
	// OriginStall and PeerStall are how long an origin or a peer may send nothing; 0 for 10 s and 4
	// s. A peer that has no bytes yet sends a sign of life several times per second.
	OriginStall, PeerStall time.Duration
	Log                    *slog.Logger
	Metrics                *Metrics
}

// Cache fetches objects into a store. It is safe for concurrent use.
type Cache struct {
	o        Options
	origins  *rate.Limiter
	uploads  *rate.Limiter
	requests chan struct{}  // limits concurrent requests to origins
	work     sync.WaitGroup // flights, and the final checks of objects

	held holdings // what peers have

	mu        sync.Mutex
	closed    bool
	transfers map[string]*transfer
	down      map[string]time.Time // by peer: when it may be asked again
}

const (
	// minInFlight and maxInFlight bound how many chunks of one object are fetched at once. With
	// as many as there are peers, all peers can send.
	minInFlight, maxInFlight = 8, 32
	// piece is how much is read at a time, in bytes.
	piece = 256 << 10
	// peerDownTime is how long a peer is not asked after a failure, and peerBanTime after it sent wrong
	// bytes.
	peerDownTime = 5 * time.Second
	peerBanTime  = time.Hour
)

// ErrClosed is the error of readers when the cache closes.
var ErrClosed = errors.New("the cache is shutting down")

// Close ends all fetches and returns when nothing writes to the store.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	for _, t := range c.transfers {
		t.mu.Lock()
		if t.err == nil && !t.done {
			t.err = ErrClosed
		}
		t.end()
		t.signal()
		t.mu.Unlock()
	}
	c.mu.Unlock()
	c.work.Wait()
}

// New returns a cache.
func New(o Options) *Cache {
	if o.Metrics == nil {
		o.Metrics = NewMetrics()
	}
	if o.Connections == 0 {
		o.Connections = 16
	}
	if o.OriginStall == 0 {
		o.OriginStall = 10 * time.Second
	}
	if o.PeerStall == 0 {
		o.PeerStall = 4 * time.Second
	}
	return &Cache{
		o: o, origins: limiter(o.OriginRate), uploads: limiter(o.PeerRate),
		requests:  make(chan struct{}, o.Connections),
		transfers: map[string]*transfer{}, down: map[string]time.Time{},
	}
}

func limiter(perSecond int64) *rate.Limiter {
	if perSecond <= 0 {
		return rate.NewLimiter(rate.Inf, piece)
	}
	return rate.NewLimiter(rate.Limit(perSecond), max(piece, int(perSecond/20)))
}

// Store returns the cache's store.
func (c *Cache) Store() *store.Store { return c.o.Store }

// Open returns a reader for the bytes of an object from offset to before end. Missing bytes are
// fetched in that order.
func (c *Cache) Open(ctx context.Context, t Target, offset, end int64) (*Reader, error) {
	return c.open(ctx, t, offset, end, readMode{reserve: offset == 0 && end >= t.Object.Size})
}

// readMode says how a reader gets its bytes.
type readMode struct {
	reserve bool // reserve the whole object
	direct  bool // the reader serves a peer, so read from the origin
}

func (c *Cache) open(ctx context.Context, t Target, offset, end int64, mode readMode) (*Reader, error) {
	if err := t.Object.Check(); err != nil {
		return nil, err
	}
	r := &Reader{ctx: ctx, target: t, pos: offset, end: min(end, t.Object.Size), mode: mode}
	for {
		f, err := c.o.Store.Open(t.Object.ID)
		if err == nil {
			c.o.Metrics.bytes.WithLabelValues("disk").Add(float64(max(0, r.end-r.pos)))
			r.file = f
			return r, nil
		}
		if !errors.Is(err, store.ErrAbsent) {
			return nil, err
		}
		err = c.join(r)
		if errors.Is(err, store.ErrWhole) {
			continue // the object has become whole in the meantime
		}
		return r, err
	}
}

// join adds a reader to the transfer of its object.
func (c *Cache) join(r *Reader) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	id := r.target.Object.ID
	t := c.transfers[id]
	if t == nil || r.mode.reserve {
		part, err := c.o.Store.Partial(r.target.Object, r.mode.reserve)
		if err != nil {
			return err
		}
		if t == nil {
			t = c.transfer(part)
			c.transfers[id] = t
		} else {
			part.Leave()
		}
	}
	t.add(r)
	return nil
}

// inFlight returns how many chunks of one object may be fetched at once.
func (c *Cache) inFlight() int {
	if c.o.Network == nil {
		return minInFlight
	}
	_, peers := c.o.Network.Peers()
	return min(max(minInFlight, len(peers)), maxInFlight)
}

// peers returns the peers to ask for a chunk before the origin.
func (c *Cache) peers(id string, chunk int) []string {
	if c.o.Network == nil {
		return nil
	}
	self, peers := c.o.Network.Peers()
	down := map[string]bool{}
	now := time.Now()
	c.mu.Lock()
	for p, until := range c.down {
		if now.Before(until) {
			down[p] = true
		} else {
			delete(c.down, p)
		}
	}
	c.mu.Unlock()
	return blob.Route(self, id, chunk, peers, down)
}

// markDown stops asking a peer for some time.
func (c *Cache) markDown(peer string, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if until := time.Now().Add(d); until.After(c.down[peer]) {
		c.down[peer] = until
	}
}

// Sent counts bytes that are sent to a peer, and waits as the rate limit requires.
func (c *Cache) Sent(ctx context.Context, n int) error {
	c.o.Metrics.sent.Add(float64(n))
	return c.uploads.WaitN(ctx, n)
}

// Chunk opens a chunk for a peer. A missing chunk is read from a peer that has the whole object,
// otherwise from the origin. It returns ErrBusy if the chunk is already being fetched from another
// peer, which could wait for this node.
func (c *Cache) Chunk(ctx context.Context, q ChunkRequest) (*Reader, error) {
	t, chunk, offset := q.Target, q.Chunk, q.Offset
	if err := t.Object.Check(); err != nil {
		return nil, err
	}
	if chunk < 0 || chunk >= t.Object.Chunks() {
		return nil, errors.New("the object has no such chunk")
	}
	start, length := t.Object.Span(chunk)
	if offset < 0 || offset > length {
		return nil, errors.New("the chunk has no such offset")
	}
	if q.Held && !c.o.Store.Has(t.Object.ID) {
		return nil, ErrBusy
	}
	c.mu.Lock()
	running := c.transfers[t.Object.ID]
	c.mu.Unlock()
	if running != nil && running.relays(chunk) {
		return nil, ErrBusy
	}
	return c.open(ctx, t, start, start+length, readMode{direct: true})
}
