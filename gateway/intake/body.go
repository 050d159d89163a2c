package intake

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// Body is a request's body. Its beginning, often all of it, is kept.
//
// One goroutine receives it with Take. Afterwards each attempt at a replica gets it with Open. A
// transport may continue to read after its request has ended, so a mutex guards the state, but
// never during a read.
type Body struct {
	store  *Store
	rest   io.Reader
	length int64 // declared length, -1 if unknown
	chunks chunks
	file   *os.File
	kept   int64 // number of kept bytes
	memory int64 // number of reserved bytes: more than kept while a chunk fills

	mu      sync.Mutex
	idle    *sync.Cond // a read has ended
	current *opened    // the attempt that may read rest
	ended   bool       // rest is at its end
	err     error
	touched bool // an attempt has read from rest
	reading bool // an attempt is reading from rest
	stopped bool
	freed   bool
}

// Body wraps a body with its declared length, -1 if unknown.
func (s *Store) Body(rest io.Reader, length int64) *Body {
	b := &Body{store: s, rest: rest, length: length}
	b.idle = sync.NewCond(&b.mu)
	return b
}

// Take receives and keeps the body up to its end, or up to the limit of one body. It returns
// ErrFull, or the error of receiving the body.
func (b *Body) Take() error { return b.take(b.store.limits.Each) }

// frameHeader is the length of the header of a gRPC message: a flag and four bytes of length.
const frameHeader = 5

// TakeMessage receives and keeps the first message of a gRPC stream. The client may send the next
// one only after the replica has answered.
func (b *Body) TakeMessage() error {
	if err := b.take(frameHeader); err != nil || b.kept < frameHeader {
		return err
	}
	var head [frameHeader]byte
	io.ReadFull(b.Kept(), head[:])
	length := int64(head[1])<<24 | int64(head[2])<<16 | int64(head[3])<<8 | int64(head[4])
	return b.take(min(frameHeader+length, b.store.limits.Each))
}

func (b *Body) take(limit int64) error {
	for b.kept < limit && !b.ended {
		if err := b.readMore(limit); err != nil {
			return err
		}
	}
	return b.Err()
}

// readMore calls Read once.
func (b *Body) readMore(limit int64) error {
	if b.file != nil {
		return b.toFile(limit)
	}
	if b.length >= 0 && b.kept >= b.length {
		var none [1]byte // only the end can follow
		n, err := b.rest.Read(none[:])
		if n > 0 {
			b.chunks = append(b.chunks, none[:n:n])
			b.kept += int64(n)
		}
		b.note(err)
		return nil
	}
	last := len(b.chunks) - 1
	if last < 0 || len(b.chunks[last]) == cap(b.chunks[last]) {
		size := b.next(limit)
		if !b.store.reserve(size, b.memory) {
			return b.spill(limit)
		}
		b.memory += size
		b.chunks = append(b.chunks, make([]byte, 0, size))
		last++
	}
	c := b.chunks[last]
	n, err := b.rest.Read(c[len(c):min(int64(cap(c)), int64(len(c))+limit-b.kept)])
	b.chunks[last] = c[:len(c)+n]
	b.kept += int64(n)
	b.note(err)
	return nil
}

// next returns the size of the next chunk. Memory grows with the received bytes, not with the
// declared length.
func (b *Body) next(limit int64) int64 {
	size := min(max(b.kept, 2<<10), 256<<10)
	if b.length >= 0 {
		size = min(size, b.length-b.kept)
	}
	return max(1, min(size, max(limit, 2<<10)))
}

func (b *Body) note(err error) {
	if err != nil {
		b.ended, b.err = true, err
	}
}

// spill moves the kept part from memory to a file.
func (b *Body) spill(limit int64) error {
	if !b.store.reserveDisk(b.kept) {
		return ErrFull
	}
	f, err := b.store.file()
	if err == nil {
		for _, c := range b.chunks {
			if _, err = f.Write(c); err != nil {
				f.Close()
				break
			}
		}
	}
	if err != nil {
		b.store.free(0, b.kept)
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	b.file, b.chunks = f, nil
	b.store.free(b.memory, 0)
	b.memory = 0
	return b.toFile(limit)
}

func (b *Body) toFile(limit int64) error {
	buf := copies.Get().(*[64 << 10]byte)
	defer copies.Put(buf)
	n, err := b.rest.Read(buf[:min(int64(len(buf)), limit-b.kept)])
	if n > 0 {
		if !b.store.reserveDisk(int64(n)) {
			return ErrFull
		}
		_, failed := b.file.Write(buf[:n])
		b.kept += int64(n)
		if failed != nil {
			return fmt.Errorf("%w: %w", ErrFull, failed)
		}
	}
	b.note(err)
	return nil
}

// Kept returns a reader of the kept part.
func (b *Body) Kept() io.Reader { return &section{b.chunks, b.file, b.kept, 0} }

// Size returns the number of kept bytes.
func (b *Body) Size() int64 { return b.kept }

// Whole reports whether all of the body is kept.
func (b *Body) Whole() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.touched && b.ended && errors.Is(b.err, io.EOF)
}

// Answered frees memory once a replica has begun to answer: the current attempt has what it needs.
func (b *Body) Answered() {
	if b.file == nil && b.Whole() {
		b.Free()
	}
}

// Free frees the kept part. Readers from Kept and Open may fail afterwards.
func (b *Body) Free() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.freed {
		return
	}
	b.freed = true
	if b.file != nil {
		b.file.Close()
		b.store.free(0, b.kept)
		return
	}
	b.store.free(b.memory, 0)
	b.chunks = nil
}
