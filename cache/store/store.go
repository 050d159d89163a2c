// Package store keeps objects on a node's disk: whole and verified, or in chunks while they are
// being fetched. What it reports as stored survives a crash at any moment.
//
//	objects/<id>       a whole, verified object, read-only
//	partial/<id>       the bytes of an object that is being fetched, at their offsets
//	partial/<id>.log   its chunks; a line is written once the chunk's bytes are synced
//	views/<name>/      a directory of whole objects, as hard links
//	pins/<owner>       the views that an owner has pinned
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
	// Capacity bounds what the store holds, in bytes; 0 for the whole disk.
	Capacity int64
	// KeepFree is how much the store leaves free on the disk, in bytes.
	KeepFree int64
	// Evicted, if set, is called for each evicted object with its size.
	Evicted func(id string, size int64)
	// Log, if set, receives warnings about files that cannot be read when the store is opened.
	Log *slog.Logger
}

// ErrNoRoom means that something does not fit even after every possible eviction.
var ErrNoRoom = errors.New("no room in the cache")

// ErrAbsent means that the store does not have the whole object.
var ErrAbsent = errors.New("not in the cache")

// ErrWhole means that an object is already whole, so there is no partial one.
var ErrWhole = errors.New("the object is already complete")

// Store is a directory of objects. It is safe for concurrent use.
type Store struct {
	dir  string
	o    Options
	lock *os.File

	mu       sync.Mutex
	whole    map[string]*entry
	bytes    int64 // of all whole objects
	partials map[string]*Partial
	views    map[string][]string // ids of the objects in each view
	pins     map[string][]string // views by owner
}

type entry struct {
	size    int64
	used    time.Time
	stamped time.Time // the time of use in the file's metadata
	open    int
}

// Open opens a store and creates its directory if necessary. Only one process may use it at a time.
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
		return nil, fmt.Errorf("cache directory %s is used by another process: give each cache its own", dir)
	}
	s := &Store{dir: dir, o: o, lock: lock, whole: map[string]*entry{}, partials: map[string]*Partial{},
		views: map[string][]string{}, pins: map[string][]string{}}
	if err := s.read(); err != nil {
		lock.Close()
		return nil, err
	}
	return s, nil
}

// private creates a directory that only its owner can enter. The files in it are readable by
// everyone, because users in containers read them through mounted views.
func private(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}

// Close stops writing logs and releases the directory.
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

// read lists the objects in the directory and removes what a crash left incomplete.
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

// Dir returns the directory of the store.
func (s *Store) Dir() string { return s.dir }

// add registers a whole object. The caller holds the lock.
func (s *Store) add(id string, size int64, used time.Time) {
	s.drop(id)
	s.whole[id] = &entry{size: size, used: used, stamped: used}
	s.bytes += size
}

// drop unregisters a whole object. The caller holds the lock.
func (s *Store) drop(id string) {
	if e := s.whole[id]; e != nil {
		s.bytes -= e.size
		delete(s.whole, id)
	}
}

// IDs returns the IDs of all whole objects, in no particular order.
func (s *Store) IDs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.whole))
}

// Has reports whether the store has the whole object.
func (s *Store) Has(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.whole[id] != nil
}

// File is an open whole object. It is not evicted before it is closed.
type File struct {
	*os.File
	close func()
}

// Close closes the file and permits its eviction.
func (f *File) Close() error {
	f.close()
	return f.File.Close()
}

// stampAfter is how old the time of use on disk may be before it is updated.
const stampAfter = time.Minute

// Open opens a whole object. It returns ErrAbsent if the store does not have it.
func (s *Store) Open(id string) (*File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.whole[id]
	if e == nil {
		return nil, ErrAbsent
	}
	f, err := os.Open(s.path("objects", id))
	if errors.Is(err, fs.ErrNotExist) {
		s.drop(id) // someone removed the file by hand
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

// Hold keeps a whole object from being evicted until release is called, without an open file. ok is
// false if the store does not have the object.
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

// touch records a use of an object, also in the file's metadata, so that it survives a restart.
func (s *Store) touch(id string, e *entry) {
	e.used = time.Now()
	if e.used.Sub(e.stamped) > stampAfter {
		e.stamped = e.used
		_ = os.Chtimes(s.path("objects", id), e.used, e.used)
	}
}

// room evicts objects until need bytes fit. The caller holds the lock.
func (s *Store) room(need int64) error {
	if err := s.fits(need); err != nil {
		return err // also keeps the sums below from overflowing
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
		return fmt.Errorf("%w: %d bytes are needed, and the %d bytes that are missing cannot be freed", ErrNoRoom, need,
			missing)
	}
	for _, id := range victims {
		if err := s.evict(id); err != nil {
			return err
		}
	}
	return nil
}

// used returns the bytes that the store takes. The caller holds the lock.
func (s *Store) used() (sum int64) {
	sum = s.bytes
	for _, p := range s.partials {
		sum += p.takes
	}
	return sum
}

// entries returns all objects, with whether each may be evicted. The caller holds the lock.
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

// evict removes an object and the views that contain it. The caller holds the lock.
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

// Stats describes the contents of a store.
type Stats struct {
	Objects, Partials int
	// Bytes is what all objects take, and Free what the disk has left, in bytes.
	Bytes, Free int64
	// Room is how many more bytes could be stored after every possible eviction.
	Room int64
}

// Stats returns the current statistics of the store.
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

// syncDir syncs a directory, so that the names in it survive a crash.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// WriteFile writes a small file atomically and durably.
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

// safeName reports whether name can be a file name in the store.
func safeName(name string) bool {
	return name != "" && len(name) < 200 && name[0] != '.' && !strings.ContainsAny(name, "/\x00")
}
