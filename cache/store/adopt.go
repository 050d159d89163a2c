package store

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"aliquot.example/internal/blob"
)

// Adopt reads size bytes and stores them as a whole object, named by its SHA-256. After a crash,
// nothing of an incomplete object remains.
func (s *Store) Adopt(r io.Reader, size int64) (blob.Object, error) {
	s.mu.Lock()
	err := s.room(size)
	s.mu.Unlock()
	if err != nil {
		return blob.Object{}, err
	}
	f, err := os.CreateTemp(s.path("tmp"), "adopt-")
	if err != nil {
		return blob.Object{}, noRoom(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	// Only this allocation reserves the space: the object counts once it is whole.
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return blob.Object{}, noRoom(err)
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(r, size))
	if err == nil && n < size {
		err = fmt.Errorf("received %d of %d bytes: %w", n, size, io.ErrUnexpectedEOF)
	}
	if err := errors.Join(noRoom(err), f.Chmod(0o444), f.Sync()); err != nil {
		return blob.Object{}, err
	}
	o := blob.Object{ID: "sha256-" + hex.EncodeToString(h.Sum(nil)), Size: size}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.whole[o.ID] != nil {
		return o, nil
	}
	if err := errors.Join(os.Rename(f.Name(), s.path("objects", o.ID)), syncDir(s.path("objects"))); err != nil {
		return blob.Object{}, err
	}
	s.add(o.ID, size, time.Now())
	return o, nil
}

// Objects returns the IDs of the objects of a view, or nil if there is no such view.
func (s *Store) Objects(name string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.views[name])
}
