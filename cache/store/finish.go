package store

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"os"
	"time"

	"aliquot.example/internal/blob"
)

// sum is the digest of the bytes of an object up to some chunk.
type sum struct {
	hash hash.Hash // nil where the object has no digest
	want string    // in hexadecimal digits
	next int       // first chunk that is not in it
}

func newSum(o blob.Object) sum {
	s := o.Checksum()
	switch {
	case s.Algorithm == "sha256":
		return sum{hash: sha256.New(), want: s.Digest}
	case s.Algorithm == "git":
		h := sha1.New()
		fmt.Fprintf(h, "blob %d\x00", o.Size)
		return sum{hash: h, want: s.Digest}
	case s.Part > 0:
		return sum{hash: &parts{Hash: md5.New(), size: s.Part}, want: s.Digest}
	case s.Algorithm == "md5":
		return sum{hash: md5.New(), want: s.Digest}
	}
	return sum{}
}

// parts is the digest of the digests of parts of one size.
type parts struct {
	hash.Hash // of the part that is not full yet
	size, in  int64
	digests   []byte
}

func (p *parts) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		piece := b[:min(int64(len(b)), p.size-p.in)]
		_, _ = p.Hash.Write(piece)
		p.in += int64(len(piece))
		n, b = n+len(piece), b[len(piece):]
		if p.in == p.size {
			p.end()
		}
	}
	return n, nil
}

func (p *parts) end() {
	p.digests = p.Hash.Sum(p.digests)
	p.Hash.Reset()
	p.in = 0
}

// Sum ends the last part.
func (p *parts) Sum(b []byte) []byte {
	if p.in > 0 {
		p.end()
	}
	all := md5.Sum(p.digests)
	return append(b, all[:]...)
}

// run writes the log and follows the digest, so that little is left to do when the
// last chunk has come.
func (p *Partial) run() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy = true
	defer func() { p.busy = false; p.wake.Broadcast() }()
	for {
		for len(p.fresh) == 0 && !p.closed {
			p.busy = false
			p.wake.Broadcast()
			p.wake.Wait()
			p.busy = true
		}
		if p.closed && len(p.fresh) == 0 {
			return
		}
		fresh := p.fresh
		p.fresh = nil
		lines := []byte{}
		for _, n := range fresh {
			line, _ := json.Marshal(p.chunks[n])
			lines = append(append(lines, line...), '\n')
		}
		held := p.ahead()
		p.mu.Unlock()
		err := p.record(lines)
		if sumErr := p.follow(held); err == nil {
			err = sumErr
		}
		p.mu.Lock()
		if err != nil && p.err == nil {
			p.err = err
		}
	}
}

// record syncs the bytes of chunks before the lines that say that they are there.
func (p *Partial) record(lines []byte) error {
	if len(p.chunks) == 1 {
		return nil // it is there or not: after a crash it is fetched again
	}
	if err := p.file.Sync(); err != nil {
		return noRoom(err)
	}
	if _, err := p.log.Write(lines); err != nil {
		return noRoom(err)
	}
	if err := p.log.Sync(); err != nil || p.named {
		return noRoom(err)
	}
	p.named = true
	return syncDir(p.store.path("partial"))
}

// ahead is the end of the chunks that are held without a gap. The caller holds the lock.
func (p *Partial) ahead() int {
	n := p.sum.next
	for n < len(p.chunks) && p.chunks[n].Held {
		n++
	}
	return n
}

// follow takes the chunks before end into the digest. Only the writer calls it, and
// Finish when the writer rests.
func (p *Partial) follow(end int) error {
	if p.sum.hash == nil {
		return nil
	}
	buffer := make([]byte, min(1<<20, p.Object.Size))
	for ; p.sum.next < end; p.sum.next++ {
		offset, length := p.Object.Span(p.sum.next)
		for at := offset; at < offset+length; {
			n, err := p.file.ReadAt(buffer[:min(int64(len(buffer)), offset+length-at)], at)
			if n == 0 && err != nil {
				return err
			}
			p.sum.hash.Write(buffer[:n])
			at += int64(n)
		}
	}
	return nil
}

// ErrDigest is the error of bytes that are not those of their digest.
var ErrDigest = errors.New("the bytes do not have the object's digest")

// Again begins the digest at the first chunk again, after chunks were replaced.
func (p *Partial) Again() {
	p.rest()
	defer p.mu.Unlock()
	o := p.Object
	o.Sum = p.stated
	p.sum = newSum(o)
}

// rest waits until the writer has nothing to do and returns with the lock held.
func (p *Partial) rest() {
	p.mu.Lock()
	for (p.busy || len(p.fresh) > 0) && !p.closed {
		p.wake.Wait()
	}
}

// Finish checks the digest of an object all of whose chunks are held, and makes it
// whole; ErrDigest where it is another.
func (p *Partial) Finish() error {
	p.rest()
	end, err := p.ahead(), p.err
	if err == nil && end < len(p.chunks) {
		err = fmt.Errorf("chunk %d of %s is missing", end, p.Object.ID)
	}
	if err == nil {
		err = p.follow(end)
	}
	if err == nil && p.sum.hash != nil && hex.EncodeToString(p.sum.hash.Sum(nil)) != p.sum.want {
		err = ErrDigest
	}
	p.mu.Unlock()
	if err != nil {
		return err
	}
	return p.publish()
}

// publish makes the files of an object that was checked those of a whole one. Others use the
// store while the disk syncs.
func (p *Partial) publish() error {
	s := p.store
	if err := errors.Join(p.file.Chmod(0o444), p.file.Sync()); err != nil {
		return noRoom(err)
	}
	if err := p.rename(); err != nil {
		return err
	}
	err := syncDir(s.path("objects"))
	s.mu.Lock()
	s.add(p.Object.ID, p.Object.Size, time.Now())
	delete(s.partials, p.Object.ID)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	// That the partial object has gone a restart finds out: see readPartials.
	_ = os.Remove(s.path("partial", p.Object.ID+".log"))
	return nil
}

func (p *Partial) rename() error {
	s := p.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.partials[p.Object.ID] != p {
		return fmt.Errorf("object %s was removed meanwhile", p.Object.ID)
	}
	return os.Rename(s.path("partial", p.Object.ID), s.path("objects", p.Object.ID))
}

// Closed frees the files of a partial object that has become whole; nobody may read
// it after that.
func (p *Partial) Closed() { p.close() }
