package fetch

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
	"time"

	"aliquot.example/cache/origin"
	"aliquot.example/cache/store"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CRC continues the CRC-32C of a chunk.
func CRC(sum uint32, p []byte) uint32 { return crc32.Update(sum, castagnoli, p) }

const (
	// tries is how many consecutive requests to an origin may fail without any bytes. maxWait
	// bounds the wait that an origin can ask for.
	tries   = 6
	maxWait = 30 * time.Second
	// busyTries is how often to retry a peer that itself waits for a peer. The bound ends the wait
	// of two peers for each other.
	busyTries = 8
	busyPause = 250 * time.Millisecond
	// minWrite is how many bytes are gathered for one write, which wakes readers. maxWriteDelay is how long a
	// smaller amount waits at most, apart from the next read.
	minWrite      = 128 << 10
	maxWriteDelay = 20 * time.Millisecond
)

// pieces is a pool of buffers.
var pieces = sync.Pool{New: func() any { return new([piece]byte) }}

var errCRC = errors.New("the bytes of a chunk do not match the peer's CRC")

// fill fetches one chunk and returns the peer that sent it, "" for the origin. If a peer sent the
// beginning and the origin the rest, it returns that peer, so that repair checks the chunk.
func (t *transfer) fill(n int, f *flight, target Target, mode readMode) (crc uint32, from string, err error) {
	if err := t.part.Room(n); err != nil {
		return 0, "", err
	}
	q := ChunkRequest{Target: target, Chunk: n}
	if !mode.direct {
		for _, peer := range t.c.peers(target.Object.ID, n) {
			if done, err := t.tryPeer(f, peer, q, &crc); done {
				return crc, peer, err
			}
		}
	}
	// Peers that have the whole object never wait for another peer, so a chunk that a peer wants
	// may come from them too.
	q.Held = true
	for _, peer := range t.c.holders(t.ctx, target.Object.ID, n) {
		if done, err := t.tryPeer(f, peer, q, &crc); done {
			return crc, peer, err
		}
	}
	t.setPeer(f, "", false)
	crc, err = t.fromOrigin(n, f, target, crc)
	return crc, f.firstPeer, err
}

// tryPeer asks a peer for a chunk, and reports whether the flight ends with that: by success or a
// final error. Otherwise the bytes that arrived are kept, and crc covers them.
func (t *transfer) tryPeer(f *flight, peer string, q ChunkRequest, crc *uint32) (done bool, err error) {
	t.setPeer(f, peer, !q.Held)
	sum, err := t.fromPeer(f, peer, q, *crc)
	// The peer that this one waits for may have failed; then this one will soon ask the origin.
	for again := 0; errors.Is(err, ErrBusy) && !q.Held && again < busyTries && t.sleep(busyPause); again++ {
		sum, err = t.fromPeer(f, peer, q, *crc)
	}
	*crc = sum
	if err == nil || t.ctx.Err() != nil || errors.Is(err, store.ErrNoRoom) {
		return true, err
	}
	if f.written > 0 {
		f.firstPeer = peer
	}
	if errors.Is(err, errCRC) {
		*crc, f.firstPeer = 0, ""
		t.reset(f)
	}
	t.c.fault(peer, err)
	return false, nil
}

// sleep waits, and reports whether the transfer is still running.
func (t *transfer) sleep(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-t.ctx.Done():
		return false
	}
}

// setPeer records from which peer a flight reads, and whether that peer may have to wait for
// another.
func (t *transfer) setPeer(f *flight, peer string, relayed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f.peer, f.relayed = peer, relayed
}

// reset restarts the flight from the first byte. Readers may already have read some of the bytes.
func (t *transfer) reset(f *flight) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f.written = 0
}

// fault records the failure of a peer. ErrBusy is not a failure.
func (c *Cache) fault(peer string, err error) {
	if errors.Is(err, ErrBusy) {
		return
	}
	c.o.Metrics.faults.Inc()
	c.o.Log.Warn("a peer failed; trying the next one or the origin", "peer", peer, "error", err)
	c.markDown(peer, peerDownTime)
}

func (t *transfer) fromPeer(f *flight, peer string, q ChunkRequest, crc uint32) (uint32, error) {
	ctx, watch, end := stalls(t.ctx, t.c.o.PeerStall)
	defer end()
	q.Offset = f.written
	body, sum, err := t.c.o.Network.Chunk(ctx, peer, q)
	if err != nil {
		return crc, stalled(ctx, err)
	}
	defer body.Close()
	crc, err = t.copy(ctx, q.Chunk, f, body, crc, watch, "peer", nil)
	if err == nil && sum() != crc {
		err = errCRC
	}
	return crc, stalled(ctx, err)
}

func (t *transfer) fromOrigin(n int, f *flight, target Target, crc uint32) (uint32, error) {
	select {
	case t.c.requests <- struct{}{}:
		defer func() { <-t.c.requests }()
	case <-t.ctx.Done():
		return crc, t.ctx.Err()
	}
	for try := 1; ; try++ {
		before := f.written
		var err error
		crc, err = t.fromOriginOnce(n, f, target, crc)
		if err == nil || origin.Final(err) || errors.Is(err, store.ErrNoRoom) || t.ctx.Err() != nil {
			return crc, err
		}
		if f.written > before {
			try = 1
		}
		if try >= tries {
			return crc, err
		}
		wait := 200 * time.Millisecond << try
		var later *origin.Later
		if errors.As(err, &later) {
			wait = min(later.After, maxWait)
		}
		t.c.o.Metrics.retries.Inc()
		t.c.o.Log.Info("the origin failed; trying again", "object", target.Object.ID, "chunk", n, "in", wait,
			"error", err)
		if !t.sleep(wait) {
			return crc, t.ctx.Err()
		}
	}
}

func (t *transfer) fromOriginOnce(n int, f *flight, target Target, crc uint32) (uint32, error) {
	ctx, watch, end := stalls(t.ctx, t.c.o.OriginStall)
	defer end()
	start, length := t.part.Object.Span(n)
	body, err := t.c.o.Origins.Open(ctx, target.Source, target.Token, target.Object, start+f.written, length-f.written)
	if err != nil {
		return crc, stalled(ctx, err)
	}
	defer body.Close()
	crc, err = t.copy(ctx, n, f, body, crc, watch, "origin", t.c.throttle)
	return crc, stalled(ctx, err)
}

// throttle waits as the rate limit for origins requires.
func (c *Cache) throttle(ctx context.Context, n int) error { return c.origins.WaitN(ctx, n) }

// copy reads a chunk from body, writes it to the store and wakes readers.
func (t *transfer) copy(ctx context.Context, n int, f *flight, body io.Reader, crc uint32, watch *time.Timer,
	source string, throttle func(context.Context, int) error) (uint32, error) {
	_, length := t.part.Object.Span(n)
	whole := pieces.Get().(*[piece]byte)
	defer pieces.Put(whole)
	buffer, pending := whole[:], pendingWrite{}
	limit := t.stallLimit(source)
	for f.written < length {
		watch.Reset(limit)
		read, err := body.Read(buffer[pending.n:min(int64(len(buffer)), length-f.written)])
		watch.Stop()
		if read > 0 && throttle != nil {
			if err := throttle(ctx, read); err != nil {
				return crc, err
			}
		}
		pending.add(read)
		// The first bytes of a chunk are written at once, because a reader may wait for them.
		ends := f.written == 0 || f.written+int64(pending.n) == length || read == 0 || err != nil
		if pending.n > 0 && (ends || pending.due()) {
			if err := t.put(n, f, buffer[:pending.n], source); err != nil {
				return crc, err
			}
			crc, pending = CRC(crc, buffer[:pending.n]), pendingWrite{}
		}
		if err := readError(err, n, f.written, length); err != nil {
			return crc, err
		}
	}
	if source != "peer" {
		return crc, nil
	}
	// A peer sends the CRC after the last byte.
	watch.Reset(limit)
	_, err := io.Copy(io.Discard, body)
	return crc, err
}

// pendingWrite counts the bytes of a chunk that arrived but are not yet written.
type pendingWrite struct {
	n     int       // bytes
	since time.Time // when the first of them arrived
}

func (w *pendingWrite) add(n int) {
	if w.n == 0 {
		w.since = time.Now()
	}
	w.n += n
}

// due reports whether enough bytes were gathered, or for long enough, to be written.
func (w *pendingWrite) due() bool { return w.n >= minWrite || time.Since(w.since) >= maxWriteDelay }

// readError returns the error of a read that ended with err; an io.EOF at the end of the chunk is none.
func readError(err error, n int, written, length int64) error {
	switch {
	case err == io.EOF && written < length:
		return fmt.Errorf("chunk %d ended after %d of %d bytes: %w", n, written, length, io.ErrUnexpectedEOF)
	case err == io.EOF:
		return nil
	}
	return err
}

// stallLimit returns how long a source may send nothing.
func (t *transfer) stallLimit(source string) time.Duration {
	if source == "peer" {
		return t.c.o.PeerStall
	}
	return t.c.o.OriginStall
}

// put writes the next bytes of a chunk and wakes readers.
func (t *transfer) put(n int, f *flight, p []byte, source string) error {
	start, _ := t.part.Object.Span(n)
	if _, err := t.part.WriteAt(p, start+f.written); err != nil {
		return err
	}
	t.c.o.Metrics.bytes.WithLabelValues(source).Add(float64(len(p)))
	t.mu.Lock()
	defer t.mu.Unlock()
	f.grows(int64(len(p)))
	return nil
}

var errStall = errors.New("no data arrived for too long")

// stalls returns a context that is cancelled when the returned timer expires.
func stalls(ctx context.Context, limit time.Duration) (context.Context, *time.Timer, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	watch := time.AfterFunc(limit, func() { cancel(errStall) })
	return ctx, watch, func() { watch.Stop(); cancel(nil) }
}

// stalled returns errStall in place of the error that the expired timer caused.
func stalled(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errStall) {
		return errStall
	}
	return err
}

// OpenOrigin opens a part of an object at its origin, without the store. A read fails if the origin sends
// nothing for too long.
func (c *Cache) OpenOrigin(ctx context.Context, t Target, offset, end int64) (io.ReadCloser, error) {
	ctx, watch, stop := stalls(ctx, c.o.OriginStall)
	body, err := c.o.Origins.Open(ctx, t.Source, t.Token, t.Object, offset, end-offset)
	if err != nil {
		stop()
		return nil, stalled(ctx, err)
	}
	watch.Stop()
	return passthrough{ctx, body, c, watch, stop}, nil
}

// passthrough is the body of an object that is not stored.
type passthrough struct {
	ctx   context.Context
	body  io.ReadCloser
	c     *Cache
	watch *time.Timer // runs during a read
	stop  func()
}

func (p passthrough) Read(b []byte) (int, error) {
	p.watch.Reset(p.c.o.OriginStall)
	n, err := p.body.Read(b[:min(len(b), piece)])
	p.watch.Stop()
	if n > 0 {
		p.c.o.Metrics.bytes.WithLabelValues("origin").Add(float64(n))
		if wait := p.c.throttle(p.ctx, n); wait != nil {
			return n, wait
		}
	}
	return n, stalled(p.ctx, err)
}

func (p passthrough) Close() error {
	p.stop()
	return p.body.Close()
}
