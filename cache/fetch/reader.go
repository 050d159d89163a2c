package fetch

import (
	"context"
	"io"
	"os"
	"time"

	"aliquot.example/cache/store"
)

// Reader reads a part of an object in order while it is being fetched. Only one goroutine may use
// it. The caller must close it.
type Reader struct {
	ctx    context.Context
	target Target
	mode   readMode
	file   *store.File // set for a whole object
	t      *transfer   // set otherwise

	pos, end int64 // pos under the transfer's lock
	err      error // the origin's refusal, under the transfer's lock
}

// File returns the open file of a whole object, or nil.
func (r *Reader) File() *os.File {
	if r.file == nil {
		return nil
	}
	return r.file.File
}

// Read waits until at least one byte has arrived.
func (r *Reader) Read(p []byte) (int, error) { return r.ReadUntil(p, nil) }

// ReadUntil waits like Read, but returns 0 bytes and no error if the ticker ticks first.
func (r *Reader) ReadUntil(p []byte, tick <-chan time.Time) (int, error) {
	if r.file != nil {
		if r.pos >= r.end {
			return 0, io.EOF
		}
		n, err := r.file.ReadAt(p[:min(int64(len(p)), r.end-r.pos)], r.pos)
		r.pos += int64(n)
		if n > 0 {
			err = nil
		}
		return n, err
	}
	n, at, err := r.t.await(r, int64(len(p)), tick)
	if n == 0 {
		return 0, err
	}
	read, err := r.t.part.ReadAt(p[:n], at)
	r.t.advance(r, int64(read))
	if read > 0 {
		err = nil
	}
	return read, err
}

// Summed reports whether Sum can return the CRC-32C of chunks.
func (r *Reader) Summed() bool { return r.file == nil }

// Sum returns the CRC-32C of a chunk that was read to its end. It may wait until the chunk is
// recorded.
func (r *Reader) Sum(chunk int) (uint32, error) { return r.t.sumOf(r, chunk) }

// Wait waits until the object is whole and verified.
func (r *Reader) Wait() error {
	if r.file != nil {
		return nil
	}
	return r.t.whole(r)
}

// Progress returns how many bytes of the object are here, and how many peers sent some of them.
func (r *Reader) Progress() (held int64, peers int) {
	if r.file != nil {
		return r.target.Object.Size, 0
	}
	return r.t.progress()
}

// Close closes the reader. Chunks that only it wanted are no longer fetched.
func (r *Reader) Close() error {
	if r.file != nil {
		return r.file.Close()
	}
	r.t.drop(r)
	return nil
}
