package fetch

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"aliquot.example/cache/origin"
	"aliquot.example/cache/store"
	"aliquot.example/internal/blob"
)

// transfer fetches one object for all of its readers.
type transfer struct {
	c    *Cache
	part *store.Partial
	ctx  context.Context // for the flights
	end  context.CancelFunc

	mu      sync.Mutex
	changed chan struct{} // closed and replaced on each change
	have    []bool
	missing int
	from    map[string]bool // peers that sent some of it
	flights map[int]*flight
	own     int // number of flights that are not direct
	readers []*Reader
	users   int // number of readers, flights and final checks
	closing bool
	done    bool // the object is whole
	err     error
}

// flight is the fetch of one chunk.
type flight struct {
	written   int64
	peer      string // "" for the origin
	relayed   bool   // the peer may have to wait for another one
	firstPeer string // the peer that sent the beginning and then failed
	// direct is set if a peer asked for the chunk. Such a flight starts at once and reads from the
	// origin, whatever else is being fetched. Otherwise two nodes could wait for each other
	// forever.
	direct bool
	grown  chan struct{} // closed when bytes were written; nil if no reader waits
}

// grows counts written bytes and wakes readers of this chunk. The caller holds the transfer's lock.
func (f *flight) grows(n int64) {
	f.written += n
	if f.grown != nil {
		close(f.grown)
		f.grown = nil
	}
}

// transfer starts a transfer. The caller holds the cache's lock.
func (c *Cache) transfer(part *store.Partial) *transfer {
	ctx, end := context.WithCancel(context.Background())
	t := &transfer{
		c: c, part: part, ctx: ctx, end: end, changed: make(chan struct{}), from: map[string]bool{},
		have: make([]bool, part.Object.Chunks()), flights: map[int]*flight{},
	}
	for n, chunk := range part.Chunks() {
		t.have[n] = chunk.Held
		if !chunk.Held {
			t.missing++
		}
	}
	return t
}

// signal wakes all waiting goroutines. The caller holds the lock.
func (t *transfer) signal() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// add adds a reader and starts to fetch what it waits for.
func (t *transfer) add(r *Reader) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r.t = t
	t.readers = append(t.readers, r)
	t.users++
	t.schedule()
}

// drop removes a reader.
func (t *transfer) drop(r *Reader) {
	t.mu.Lock()
	i := slices.Index(t.readers, r)
	if i >= 0 {
		t.readers = slices.Delete(t.readers, i, i+1)
	}
	t.mu.Unlock()
	if i >= 0 {
		t.leave()
	}
}

// leave ends one use. The last one closes the transfer.
func (t *transfer) leave() {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.users--
	if t.users > 0 {
		return
	}
	t.end()
	t.forget()
	if t.done {
		t.part.Closed()
	} else {
		t.part.Leave()
	}
}

// forget makes the next reader start a new transfer. The caller holds both locks.
func (t *transfer) forget() {
	if id := t.part.Object.ID; t.c.transfers[id] == t {
		delete(t.c.transfers, id)
	}
}

// schedule starts flights for the chunks that readers want. The caller holds the lock.
func (t *transfer) schedule() {
	if t.err != nil || t.done {
		return
	}
	if t.missing == 0 {
		if !t.closing {
			t.closing = true
			t.users++
			t.c.work.Go(t.finish)
		}
		return
	}
	wants := make([]blob.Want, len(t.readers))
	for i, r := range t.readers {
		if r.err != nil {
			continue // the origin refused it
		}
		wants[i].Next, wants[i].End = t.part.Object.Covering(r.pos, r.end)
	}
	taken := func(n int) bool { return t.have[n] || t.flights[n] != nil }
	for i, w := range wants {
		for n := w.Next; t.readers[i].mode.direct && n < w.End; n++ {
			if !taken(n) {
				t.begin(n, t.readers[i])
			}
		}
	}
	for t.own < t.c.inFlight() {
		n, i, ok := blob.Next(wants, taken)
		if !ok {
			return
		}
		t.begin(n, t.readers[i])
	}
}

// begin starts a flight for a reader. The caller holds the lock.
func (t *transfer) begin(n int, r *Reader) {
	f := &flight{direct: r.mode.direct}
	t.flights[n] = f
	t.users++
	if !f.direct {
		t.own++
	}
	target, mode := r.target, r.mode
	t.c.work.Go(func() { t.fly(n, f, target, mode) })
}

// relays reports whether a chunk is being fetched from a peer that may wait for another one.
func (t *transfer) relays(n int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.flights[n]
	return f != nil && f.relayed
}

// fly fetches a chunk and then schedules the next.
func (t *transfer) fly(n int, f *flight, target Target, mode readMode) {
	crc, from, err := t.fill(n, f, target, mode)
	if err == nil {
		t.part.Done(n, crc, from)
	}
	t.mu.Lock()
	delete(t.flights, n)
	if !f.direct {
		t.own--
	}
	switch {
	case origin.Final(err) && t.ctx.Err() == nil:
		t.refuse(target, err)
	case err != nil && t.err == nil && t.ctx.Err() == nil:
		t.err = err
		t.end()
	case err == nil:
		t.have[n] = true
		t.missing--
		if from != "" {
			t.from[from] = true
		}
	}
	t.signal()
	t.schedule()
	failed := t.err != nil
	t.mu.Unlock()
	if failed {
		t.c.mu.Lock()
		t.forget()
		t.c.mu.Unlock()
	}
	t.leave()
}

// refuse fails the readers with the same source and token. The origin may still grant the object to
// others. The caller holds the lock.
func (t *transfer) refuse(target Target, err error) {
	for _, r := range t.readers {
		if r.target == target {
			r.err = err
		}
	}
}

// await waits until bytes at a reader's position have arrived. It returns how many, up to most, and
// their offset. It returns none when the ticker ticks.
func (t *transfer) await(r *Reader, most int64, tick <-chan time.Time) (n, at int64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		if r.pos >= r.end {
			return 0, 0, io.EOF
		}
		if r.err != nil {
			return 0, 0, r.err
		}
		chunk := int(r.pos / blob.ChunkSize)
		start, length := t.part.Object.Span(chunk)
		var grown chan struct{}
		if !t.have[chunk] && !t.done {
			length = 0
			if f := t.flights[chunk]; f != nil {
				if f.grown == nil {
					f.grown = make(chan struct{})
				}
				length, grown = f.written, f.grown
			}
		}
		if n := min(most, start+length-r.pos, r.end-r.pos); n > 0 {
			return n, r.pos, nil
		}
		if t.err != nil {
			return 0, 0, t.err
		}
		if err := t.pause(r.ctx, grown, tick); err == errTick {
			return 0, 0, nil
		} else if err != nil {
			return 0, 0, err
		}
	}
}

var errTick = errors.New("the ticker ticked")

// pause waits for a change or for bytes of a chunk. It releases the lock while it waits.
func (t *transfer) pause(ctx context.Context, grown <-chan struct{}, tick <-chan time.Time) error {
	changed := t.changed
	t.mu.Unlock()
	defer t.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-grown:
		return nil
	case <-tick:
		return errTick
	case <-ctx.Done():
		return ctx.Err()
	}
}

// advance moves a reader's position forward.
func (t *transfer) advance(r *Reader, n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r.pos += n
}

// whole waits until the object is whole.
func (t *transfer) whole(r *Reader) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for !t.done {
		if err := cmp.Or(r.err, t.err); err != nil {
			return err
		}
		if err := t.pause(r.ctx, nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// sumOf waits until a chunk is held and returns its CRC-32C.
func (t *transfer) sumOf(r *Reader, chunk int) (uint32, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for !t.have[chunk] {
		if err := cmp.Or(r.err, t.err); err != nil {
			return 0, err
		}
		if err := t.pause(r.ctx, nil, nil); err != nil {
			return 0, err
		}
	}
	return t.part.CRC(chunk), nil
}

func (t *transfer) progress() (held int64, peers int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for n, here := range t.have {
		if _, length := t.part.Object.Span(n); here {
			held += length
		}
	}
	for _, f := range t.flights {
		held += f.written
	}
	return held, len(t.from)
}
