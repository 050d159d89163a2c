// Package intake receives the bodies of requests before the requests get a slot. It keeps them in
// memory while there is space, and then in temporary files.
package intake

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sync/semaphore"
)

// Limits limit what a Store keeps, in bytes.
type Limits struct {
	// Each limits the kept part of one body. The rest is passed on as it arrives.
	Each int64
	// Memory limits the kept parts of all bodies in memory, Disk those in files; without Disk there
	// are no files. Copies of bodies that are being read take at most another quarter of Memory, or
	// Each if that is larger.
	Memory, Disk int64
	Dir          string // directory of the files, "" for the system's default
}

// ErrFull means that there is no space for a body.
var ErrFull = errors.New("the gateway has no more space for request bodies")

// Store keeps the bodies of all requests within its limits.
type Store struct {
	limits       Limits
	mu           sync.Mutex
	memory, disk int64
	copies       *semaphore.Weighted // limits copies of bodies in one piece
	copying      int64               // size of the semaphore in bytes
}

// NewStore returns an empty store.
func NewStore(l Limits) *Store {
	// Copies live for milliseconds, so a part of the memory is enough for many.
	copying := max(l.Memory/4, l.Each)
	return &Store{limits: l, copies: semaphore.NewWeighted(copying), copying: copying}
}

// small is the size, in bytes, up to which a body may use the last free memory.
const small = 64 << 10

// reserve reserves n bytes of memory for a body that already holds some. A larger body gets at most
// a quarter of what the others leave free, so that a few large bodies do not force many small ones
// into files.
func (s *Store) reserve(n, holds int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	room := s.limits.Memory - s.memory
	if n > room || (holds+n > small && holds+n > (room+holds)/4) {
		return false
	}
	s.memory += n
	return true
}

func (s *Store) reserveDisk(n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.disk+n > s.limits.Disk {
		return false
	}
	s.disk += n
	return true
}

func (s *Store) free(memory, disk int64) {
	s.mu.Lock()
	s.memory -= memory
	s.disk -= disk
	s.mu.Unlock()
}

// file creates a file without a name: nobody else can open it, and it disappears with the gateway.
func (s *Store) file() (*os.File, error) {
	if s.limits.Disk == 0 {
		return nil, ErrFull
	}
	f, err := os.CreateTemp(s.limits.Dir, "aliquot-body-*")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFull, err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w: %w", ErrFull, err)
	}
	return f, nil
}

// chunks is text in memory. One goroutine appends to it, before anybody reads it.
type chunks [][]byte

// at copies bytes from an offset.
func (c chunks) at(p []byte, offset int64) int {
	for _, one := range c {
		if offset < int64(len(one)) {
			return copy(p, one[offset:])
		}
		offset -= int64(len(one))
	}
	return 0
}

var copies = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// section reads the kept part of a body.
type section struct {
	chunks chunks
	file   *os.File
	size   int64
	at     int64
}

func (s *section) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	left := s.size - s.at
	if left <= 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), left)]
	n := 0
	if s.file == nil {
		n = s.chunks.at(p, s.at)
	} else {
		var err error
		if n, err = s.file.ReadAt(p, s.at); n == 0 {
			return 0, err
		}
	}
	s.at += int64(n)
	return n, nil
}
