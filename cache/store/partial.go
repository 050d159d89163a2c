package store

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"aliquot.example/internal/blob"
)

// Partial is an object that is being fetched. It is safe for concurrent use, but each chunk may
// have only one writer at a time.
type Partial struct {
	Object blob.Object
	store  *Store
	file   *os.File
	log    *os.File

	// The store's lock protects these.
	takes    int64 // bytes that count as used on the disk
	reserved bool  // the whole size is reserved
	users    int
	used     time.Time

	mu       sync.Mutex
	chunks   []Chunk // by number
	unlogged []int   // held, but not yet in the log
	wake     *sync.Cond
	busy     bool // run is working
	closed   bool
	err      error // error of the log or the digest
	sum      sum
	named    bool   // the names of the files are synced; only run uses it
	stated   string // the checksum from the origin, which sum checks
}

// Chunk describes a chunk that is held.
type Chunk struct {
	Held bool   `json:"-"`
	N    int    `json:"n"`
	CRC  uint32 `json:"crc"`  // CRC-32C
	From string `json:"from"` // a peer, or "" for the origin
}

// Partial returns the partial object and creates it if there is none. With reserve it reserves the
// space for the whole object, so that a later write cannot fail for lack of space. The caller must
// call Leave.
func (s *Store) Partial(o blob.Object, reserve bool) (*Partial, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.whole[o.ID] != nil {
		return nil, ErrWhole
	}
	p, err := s.begun(o)
	if err != nil {
		return nil, err
	}
	if p == nil {
		if p, err = s.begin(o); err != nil {
			return nil, err
		}
	}
	p.users++
	p.used = time.Now()
	if reserve && !p.reserved {
		if err := s.reserve(p); err != nil {
			p.users--
			if p.users == 0 && p.takes == 0 {
				p.remove()
			}
			return nil, err
		}
	}
	return p, nil
}

// begun returns an existing partial object that can continue, or nil. It returns an error if
// someone else is using the ID for another object. The caller holds mu.
func (s *Store) begun(o blob.Object) (*Partial, error) {
	p := s.partials[o.ID]
	if p == nil {
		return nil, nil
	}
	if err := p.agree(o); err != nil {
		if p.users > 0 {
			return nil, err
		}
		p.remove() // remove what was created only for this reader
		return nil, nil
	}
	if p.users == 0 && p.failed() {
		return s.reopen(p), nil
	}
	return p, nil
}

// agree returns an error if o is another object with the same ID. If the partial object has no
// checksum yet, agree adopts that of o.
func (p *Partial) agree(o blob.Object) error {
	if p.Object.Size != o.Size {
		return fmt.Errorf("object %s has %d bytes, but the request says %d", o.ID, p.Object.Size, o.Size)
	}
	p.rest()
	defer p.mu.Unlock()
	switch {
	case o.Sum == "" || o.Sum == p.stated:
		return nil
	case p.stated != "":
		return fmt.Errorf("object %s has the checksum %s, but the request says %s", o.ID, p.stated, o.Sum)
	}
	p.stated = o.Sum
	p.sum = newSum(o)
	return nil
}

// failed reports whether writing the log or reading chunks has failed.
func (p *Partial) failed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err != nil
}

// reopen reads a partial object whose disk failed from its log, as after a restart. The failure may
// be over, and chunks that the log does not name may not be on the disk. It returns nil if nothing
// can be read. The caller holds the lock.
func (s *Store) reopen(p *Partial) *Partial {
	delete(s.partials, p.Object.ID)
	p.close()
	if err := s.readPartial(p.Object.ID); err != nil {
		return nil
	}
	return s.partials[p.Object.ID]
}

// maxChunks bounds the chunks of partial objects without readers, because their list is in memory:
// 4 million chunks are 32 TiB of objects and take about 170 MB.
const maxChunks = 4 << 20

// forgetIdle removes the least recently used partial objects without readers until there is room
// for n more chunks. The caller holds the lock.
func (s *Store) forgetIdle(n int) {
	var idle []*Partial
	for _, p := range s.partials {
		if p.users == 0 {
			idle = append(idle, p)
			n += p.Object.Chunks()
		}
	}
	slices.SortFunc(idle, func(a, b *Partial) int { return a.used.Compare(b.used) })
	for _, p := range idle {
		if n <= maxChunks {
			return
		}
		n -= p.Object.Chunks()
		p.remove()
	}
}

// fits returns an error for an object that is larger than the store can ever hold. An origin may
// claim any size, and memory and files grow with it.
func (s *Store) fits(size int64) error {
	var disk unix.Statfs_t
	if err := unix.Statfs(s.dir, &disk); err != nil {
		return fmt.Errorf("cache directory: %w", err)
	}
	most := int64(disk.Blocks)*disk.Bsize - s.o.KeepFree
	if s.o.Capacity > 0 {
		most = min(most, s.o.Capacity)
	}
	if size > most {
		return fmt.Errorf("%w: the object has %d bytes, and the cache can hold at most %d", ErrNoRoom, size,
			max(most, 0))
	}
	return nil
}

// begin creates the files of a partial object. The caller holds the lock.
func (s *Store) begin(o blob.Object) (*Partial, error) {
	if err := s.fits(o.Size); err != nil {
		return nil, err
	}
	s.forgetIdle(o.Chunks())
	data, err := os.OpenFile(s.path("partial", o.ID), os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, err
	}
	if err := data.Truncate(o.Size); err != nil {
		data.Close()
		return nil, noRoom(err)
	}
	// Nothing has to survive a crash before the first chunk does: see record.
	header, _ := json.Marshal(o)
	if err := os.WriteFile(s.path("partial", o.ID+".log"), append(header, '\n'), 0o644); err != nil {
		data.Close()
		return nil, noRoom(err)
	}
	return s.register(o, data)
}

// register registers a partial object whose files exist, and opens its log.
func (s *Store) register(o blob.Object, data *os.File) (*Partial, error) {
	log, err := os.OpenFile(s.path("partial", o.ID+".log"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		data.Close()
		return nil, err
	}
	p := &Partial{Object: o, store: s, file: data, log: log, used: time.Now(), chunks: make([]Chunk, o.Chunks()),
		sum: newSum(o), stated: o.Sum}
	p.wake = sync.NewCond(&p.mu)
	s.partials[o.ID] = p
	go p.run()
	return p, nil
}

// reserve reserves the space of the whole object. The caller holds the lock.
func (s *Store) reserve(p *Partial) error {
	if err := s.room(p.Object.Size - p.takes); err != nil {
		return err
	}
	if p.Object.Size > 0 {
		if err := unix.Fallocate(int(p.file.Fd()), 0, 0, p.Object.Size); err != nil &&
			!errors.Is(err, unix.EOPNOTSUPP) {
			return noRoom(fmt.Errorf("cannot reserve %d bytes: %w", p.Object.Size, err))
		}
	}
	p.takes, p.reserved = p.Object.Size, true
	return nil
}

// noRoom wraps the error of a full disk in ErrNoRoom.
func noRoom(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoRoom, err)
	}
	return err
}

// readPartials reads the partial objects of an earlier run.
func (s *Store) readPartials() error {
	entries, err := os.ReadDir(s.path("partial"))
	if err != nil {
		return fmt.Errorf("cache directory: %w", err)
	}
	for _, e := range entries {
		id, isLog := strings.CutSuffix(e.Name(), ".log")
		if !isLog {
			if _, err := os.Stat(s.path("partial", e.Name()+".log")); err != nil {
				os.Remove(s.path("partial", e.Name())) // no log, so no chunk of it is known
			}
			continue
		}
		if err := s.readPartial(id); err != nil {
			s.o.Log.Warn("cannot resume an unfinished object; removing it", "object", id, "error", err)
			os.Remove(s.path("partial", id))
			os.Remove(s.path("partial", e.Name()))
		}
	}
	return nil
}

// readPartial reads one log. Its last line may be incomplete after a crash.
func (s *Store) readPartial(id string) error {
	text, err := os.ReadFile(s.path("partial", id+".log"))
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	var o blob.Object
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &o) != nil || o.ID != id || o.Check() != nil {
		return errors.New("the first line of the log is invalid")
	}
	if err := s.fits(o.Size); err != nil {
		return err
	}
	data, modified, err := openSized(s.path("partial", id), o.Size)
	if err != nil {
		return err
	}
	if end := bytes.LastIndexByte(text, '\n') + 1; end < len(text) {
		// The next line to be appended must not continue the incomplete one.
		if err := os.Truncate(s.path("partial", id+".log"), int64(end)); err != nil {
			data.Close()
			return err
		}
	}
	p, err := s.register(o, data)
	if err != nil {
		return err
	}
	p.restore(lines)
	p.used = modified
	return nil
}

// openSized opens a file, checks its size, and returns its modification time.
func openSized(path string, size int64) (*os.File, time.Time, error) {
	data, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, time.Time{}, err
	}
	info, err := data.Stat()
	if err != nil || info.Size() != size {
		data.Close()
		return nil, time.Time{}, errors.New("the file has the wrong size")
	}
	return data, info.ModTime(), nil
}

// restore marks the chunks that the log names as held. It skips unreadable lines.
func (p *Partial) restore(lines *bufio.Scanner) {
	for lines.Scan() {
		var c Chunk
		if json.Unmarshal(lines.Bytes(), &c) == nil && c.N >= 0 && c.N < len(p.chunks) {
			c.Held = true
			p.chunks[c.N] = c
		}
	}
	for n, c := range p.chunks {
		if c.Held {
			_, length := p.Object.Span(n)
			p.takes += length
		}
	}
}

// Leave ends the caller's use. The object may be evicted once all users have left.
func (p *Partial) Leave() {
	p.store.mu.Lock()
	defer p.store.mu.Unlock()
	p.users--
	p.used = time.Now()
}

// ReadAt reads bytes that have been written.
func (p *Partial) ReadAt(b []byte, offset int64) (int, error) { return p.file.ReadAt(b, offset) }

// WriteAt writes bytes of a chunk that is being fetched.
func (p *Partial) WriteAt(b []byte, offset int64) (int, error) {
	n, err := p.file.WriteAt(b, offset)
	return n, noRoom(err)
}

// Room reserves the space for one more chunk, unless the whole object is reserved.
func (p *Partial) Room(n int) error {
	p.store.mu.Lock()
	defer p.store.mu.Unlock()
	if p.reserved {
		return nil
	}
	_, length := p.Object.Span(n)
	if err := p.store.room(length); err != nil {
		return err
	}
	p.takes += length
	return nil
}

// Done records that a chunk was written, with its CRC-32C and its source. The log names the chunk
// soon after, once its bytes are synced.
func (p *Partial) Done(n int, crc uint32, from string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.chunks[n] = Chunk{true, n, crc, from}
	p.unlogged = append(p.unlogged, n)
	p.wake.Broadcast()
}

// Chunks returns a copy of the list of chunks, by number.
func (p *Partial) Chunks() []Chunk {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Chunk(nil), p.chunks...)
}

// CRC returns the CRC-32C of a chunk that is held.
func (p *Partial) CRC(n int) uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.chunks[n].CRC
}

// close stops run and closes the files.
func (p *Partial) close() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.closed = true
	p.wake.Broadcast()
	for p.busy || len(p.unlogged) > 0 {
		p.wake.Wait()
	}
	p.mu.Unlock()
	p.log.Close()
	p.file.Close()
}

// remove removes a partial object and its files. The caller holds the store's lock.
func (p *Partial) remove() {
	delete(p.store.partials, p.Object.ID)
	p.mu.Lock()
	p.unlogged = nil // no need to log them
	p.mu.Unlock()
	p.close()
	os.Remove(p.store.path("partial", p.Object.ID))
	os.Remove(p.store.path("partial", p.Object.ID+".log"))
}

// Discard removes a partial object whose bytes are wrong.
func (p *Partial) Discard() {
	p.store.mu.Lock()
	defer p.store.mu.Unlock()
	if p.store.partials[p.Object.ID] == p {
		p.remove()
	}
}
