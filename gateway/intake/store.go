// Package intake takes the bodies of requests in before they are given a slot of a
// replica: in memory as long as there is room, then in a temporary file.
package intake

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sync/semaphore"
)

// Limits bound what a Store holds, in bytes.
type Limits struct {
	// Each bounds what is kept of one body; what is longer is given as it comes.
	Each int64
	// Memory bounds what is kept in memory of all bodies, Disk what is in files;
	// with a Disk of 0 there are no files. Copies of bodies that are looked at take
	// a quarter of Memory more at most, or that of one body.
	Memory, Disk int64
	Dir          string // of the files; "" for the system's
}

// ErrFull is the error of a body for which there is no room.
var ErrFull = errors.New("the gateway holds as many request bodies as it may")

// Store is what all bodies share.
type Store struct {
	limits       Limits
	mu           sync.Mutex
	memory, disk int64
	copies       *semaphore.Weighted // of bodies in one piece
	copying      int64               // its size in bytes
}

// NewStore returns an empty store.
func NewStore(l Limits) *Store {
	// Copies live for milliseconds, so that a part of the memory is enough for many.
	copying := max(l.Memory/4, l.Each)
	return &Store{limits: l, copies: semaphore.NewWeighted(copying), copying: copying}
}

// small is the size, in bytes, up to which a body may take the last of the memory.
const small = 64 << 10

// reserve takes n bytes of memory for a body that holds some already. A larger body
// gets only a quarter of what others leave, so that a few large ones do not force
// the many small ones into files.
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

// file makes a file without a name: nobody else can open it, and it is gone with
// the gateway.
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

// chunks is text in memory, in the order in which it came. It is only ever added
// to, by one goroutine, before anybody reads it.
type chunks [][]byte

// at copies what stands at an offset.
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

// section reads the kept part of a body from its first byte.
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
