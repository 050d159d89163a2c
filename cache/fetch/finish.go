package fetch

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"aliquot.example/cache/origin"
	"aliquot.example/cache/store"
)

// finish checks the object's digest and makes it whole. If the digest is wrong, it compares the
// chunks from peers with the origin and tries once more.
func (t *transfer) finish() {
	err := t.part.Finish()
	if errors.Is(err, store.ErrDigest) {
		t.c.o.Metrics.digestErrors.Inc()
		if err = t.repair(); err == nil {
			t.part.Again()
			err = t.part.Finish()
		}
	}
	if errors.Is(err, store.ErrDigest) {
		t.part.Discard()
		err = fmt.Errorf("%w: %w; the data from the origin was discarded", origin.ErrChanged, err)
	}
	t.c.mu.Lock()
	t.forget()
	t.c.mu.Unlock()
	t.mu.Lock()
	t.done = err == nil
	if err != nil && t.err == nil {
		t.err = err
	}
	t.signal()
	t.mu.Unlock()
	t.leave()
}

// repair reads every chunk that came from a peer from the origin instead, and bans the peers that
// sent other bytes.
func (t *transfer) repair() error {
	t.mu.Lock()
	var target Target
	if i := slices.IndexFunc(t.readers, func(r *Reader) bool { return r.err == nil }); i >= 0 {
		target = t.readers[i].target
	}
	t.mu.Unlock()
	if target.Source == "" {
		return store.ErrDigest // no reader is left
	}
	found := false
	for n, chunk := range t.part.Chunks() {
		if chunk.From == "" {
			continue
		}
		start, length := t.part.Object.Span(n)
		body, err := t.c.o.Origins.Open(t.ctx, target.Source, target.Token, target.Object, start, length)
		if err != nil {
			return err
		}
		buffer := make([]byte, length)
		_, err = io.ReadFull(body, buffer)
		body.Close()
		if err != nil {
			return err
		}
		t.c.o.Metrics.bytes.WithLabelValues("origin").Add(float64(length))
		crc := CRC(0, buffer)
		if crc == chunk.CRC {
			continue
		}
		found = true
		t.c.o.Log.Error("a peer sent wrong bytes; not using it for an hour", "peer", chunk.From,
			"object", target.Object.ID, "chunk", n)
		t.c.o.Metrics.wrongChunks.Inc()
		t.c.markDown(chunk.From, peerBanTime)
		if _, err := t.part.WriteAt(buffer, start); err != nil {
			return err
		}
		t.part.Done(n, crc, "")
	}
	if !found {
		return store.ErrDigest
	}
	return nil
}
