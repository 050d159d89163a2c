// Package store keeps objects on a node's disk: whole and verified, or in chunks while
// they are fetched. What it says is there survives a crash at any moment.
//
//	objects/<id>       a whole object whose digest was checked, read-only
//	partial/<id>       the bytes of one that is fetched, at their places
//	partial/<id>.log   which chunks of it are there; a line follows its synced bytes
//	views/<name>/      directories of whole objects, as hard links
//	pins/<owner>       the views that somebody uses
package store

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"aliquot.example/internal/blob"
)

// Options bound a store.
type Options struct {
	// Capacity is the most that the store holds, in bytes; 0 for the whole disk.
	Capacity int64
	// KeepFree is what the store leaves free on the disk, in bytes.
	KeepFree int64
	// Evicted, if set, hears of each object that made room, with its size.
	Evicted func(id string, size int64)
	// Log, if set, hears of what cannot be read when the store is opened.
	Log *slog.Logger
}

// ErrNoRoom is the error of what does not fit even after all that may go has gone.
var ErrNoRoom = errors.New("no room in the cache")

// ErrAbsent is the error of an object that is not whole here.
var ErrAbsent = errors.New("not in the cache")

// ErrWhole is the error of a partial object that is whole already.
var ErrWhole = errors.New("it is whole")

// Store is a directory of objects. It is safe for concurrent use.
type Store struct {
	dir  string
	o    Options
	lock *os.File

	mu       sync.Mutex
	whole    map[string]*entry
	bytes    int64 // of all that is whole
	partials map[string]*Partial
	views    map[string][]string // ids of the objects in each view
	pins     map[string][]string // views by owner
}

type entry struct {
	size    int64
	used    time.Time
	stamped time.Time // what the file says
	open    int
}

// Open opens a directory, which one process uses at a time, and makes it if need be.
func Open(dir string, o Options) (*Store, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := private(dir); err != nil {
		return nil, fmt.Errorf("cache directory: %w", err)
	}
	for _, d := range []string{"objects", "partial", "views", "pins", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("cache directory: %w", err)
		}
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cache directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("cache directory %s is used by another process: give each its own", dir)
	}
	s := &Store{dir: dir, o: o, lock: lock, whole: map[string]*entry{}, partials: map[string]*Partial{},
		views: map[string][]string{}, pins: map[string][]string{}}
	if err := s.read(); err != nil {
		lock.Close()
		return nil, err
	}
	return s, nil
}

// private makes a directory that its owner alone can enter. What is in it anybody may
// read: users of containers do, through mounts of views.
func private(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}

// Close ends the writing of logs and gives the directory free.
func (s *Store) Close() error {
	s.mu.Lock()
	partials := make([]*Partial, 0, len(s.partials))
	for _, p := range s.partials {
		partials = append(partials, p)
	}
	s.mu.Unlock()
	for _, p := range partials {
		p.close()
	}
	return s.lock.Close()
}

// read reads which objects the directory has, and removes what a crash left incomplete.
func (s *Store) read() error {
	if err := os.RemoveAll(s.path("tmp")); err != nil {
		return fmt.Errorf("cache directory: %w", err)
	}
	if err := os.MkdirAll(s.path("tmp"), 0o755); err != nil {
		return fmt.Errorf("cache directory: %w", err)
	}
	entries, err := os.ReadDir(s.path("objects"))
	if err != nil {
		return fmt.Errorf("cache directory: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && info.Mode().IsRegular() && (blob.Object{ID: e.Name()}).Check() == nil {
			s.add(e.Name(), info.Size(), earlier(info.ModTime(), time.Now())) // a clock may have been ahead
		}
	}
	if err := s.readPartials(); err != nil {
		return err
	}
	return s.readViews()
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func (s *Store) path(elements ...string) string {
	return filepath.Join(append([]string{s.dir}, elements...)...)
}

// Dir is the directory of the store.
func (s *Store) Dir() string { return s.dir }

// add notes an object that is whole. The caller holds the lock.
func (s *Store) add(id string, size int64, used time.Time) {
	s.drop(id)
	s.whole[id] = &entry{size: size, used: used, stamped: used}
	s.bytes += size
}

// drop forgets one. The caller holds the lock.
func (s *Store) drop(id string) {
	if e := s.whole[id]; e != nil {
		s.bytes -= e.size
		delete(s.whole, id)
	}
}

// IDs lists all whole objects, in no order.
func (s *Store) IDs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.whole))
}

// Has reports whether an object is whole here.
func (s *Store) Has(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.whole[id] != nil
}

// File is a whole object, open for reading. It is not evicted before it is closed.
type File struct {
	*os.File
	close func()
}

// Close closes the file once.
func (f *File) Close() error {
	f.close()
	return f.File.Close()
}

// stampAfter is how old the time of use in the file may become.
const stampAfter = time.Minute

// Open opens a whole object; ErrAbsent where it is not.
func (s *Store) Open(id string) (*File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.whole[id]
	if e == nil {
		return nil, ErrAbsent
	}
	f, err := os.Open(s.path("objects", id))
	if errors.Is(err, fs.ErrNotExist) {
		s.drop(id) // somebody removed it by hand
		return nil, ErrAbsent
	}
	if err != nil {
		return nil, err
	}
	e.open++
	s.touch(id, e)
	return &File{f, sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		e.open--
	})}, nil
}

// Hold keeps a whole object from being evicted until release is called, without a file
// that is open; ok is false where it is not whole.
func (s *Store) Hold(id string) (release func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.whole[id]
	if e == nil {
		return nil, false
	}
	e.open++
	s.touch(id, e)
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		e.open--
	}), true
}

// touch notes the use of an object, in its file too, so that a restart knows it.
func (s *Store) touch(id string, e *entry) {
	e.used = time.Now()
	if e.used.Sub(e.stamped) > stampAfter {
		e.stamped = e.used
		_ = os.Chtimes(s.path("objects", id), e.used, e.used)
	}
}

// room makes room for need bytes. The caller holds the lock.
func (s *Store) room(need int64) error {
	if err := s.fits(need); err != nil {
		return err // also for a need that is too large to be added to
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(s.dir, &disk); err != nil {
		return fmt.Errorf("cache directory: %w", err)
	}
	missing := need + s.o.KeepFree - int64(disk.Bavail)*disk.Bsize
	if s.o.Capacity > 0 {
		missing = max(missing, s.used()+need-s.o.Capacity)
	}
	if missing <= 0 {
		return nil
	}
	victims, ok := blob.Evict(s.entries(), missing)
	if !ok {
		return fmt.Errorf("%w: %d bytes are needed and %d more would have to be free", ErrNoRoom, need, missing)
	}
	for _, id := range victims {
		if err := s.evict(id); err != nil {
			return err
		}
	}
	return nil
}

// used is what the store takes. The caller holds the lock.
func (s *Store) used() (sum int64) {
	sum = s.bytes
	for _, p := range s.partials {
		sum += p.takes
	}
	return sum
}

// entries lists what could be evicted, and what not. The caller holds the lock.
func (s *Store) entries() (all []blob.Entry) {
	pinned := s.pinned()
	for id, e := range s.whole {
		all = append(all, blob.Entry{ID: id, Size: e.size, Used: e.used.UnixNano(), Kept: e.open > 0 || pinned[id]})
	}
	for id, p := range s.partials {
		all = append(all, blob.Entry{ID: id, Size: p.takes, Used: p.used.UnixNano(), Kept: p.users > 0})
	}
	return all
}

// evict removes an object and the views that it is part of. The caller holds the lock.
func (s *Store) evict(id string) error {
	if p := s.partials[id]; p != nil {
		size := p.takes
		p.remove()
		s.evicted(id, size)
		return nil
	}
	if err := s.removeViewsOf(id); err != nil {
		return err
	}
	if err := os.Remove(s.path("objects", id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("evict: %w", err)
	}
	size := s.whole[id].size
	s.drop(id)
	s.evicted(id, size)
	return nil
}

func (s *Store) evicted(id string, size int64) {
	if s.o.Evicted != nil {
		s.o.Evicted(id, size)
	}
}

// Stats is what a store holds.
type Stats struct {
	Objects, Partials int
	// Bytes is what they take, Free what the disk has left, in bytes.
	Bytes, Free int64
	// Room is what could be stored more once all is evicted that may be.
	Room int64
}

// Stats returns the sizes and counts of the store.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{Objects: len(s.whole), Partials: len(s.partials), Bytes: s.used()}
	var disk unix.Statfs_t
	if unix.Statfs(s.dir, &disk) == nil {
		st.Free = int64(disk.Bavail) * disk.Bsize
	}
	st.Room = st.Free - s.o.KeepFree
	if s.o.Capacity > 0 {
		st.Room = min(st.Room, s.o.Capacity-st.Bytes)
	}
	for _, e := range s.entries() {
		if !e.Kept {
			st.Room += e.Size
		}
	}
	st.Room = max(st.Room, 0)
	return st
}

// syncDir makes the names in a directory survive a crash of the machine.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// WriteFile writes a small file as a whole or not at all.
func (s *Store) WriteFile(path string, text []byte) error {
	f, err := os.CreateTemp(s.path("tmp"), "file-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	return err
}

// safeName reports whether a text can be the name of a file here.
func safeName(name string) bool {
	return name != "" && len(name) < 200 && name[0] != '.' && !strings.ContainsAny(name, "/\x00")
}
