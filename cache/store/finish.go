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

// sum is the running digest of an object's bytes up to some chunk.
type sum struct {
	hash hash.Hash // nil if the object has no digest
	want string    // in hexadecimal digits
	next int       // first chunk not yet included
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

// parts is the MD5 of the MD5s of parts of one size, as in the ETag of an S3 multipart upload.
type parts struct {
	hash.Hash // of the current part
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

// Sum implements hash.Hash. It also ends the last part.
func (p *parts) Sum(b []byte) []byte {
	if p.in > 0 {
		p.end()
	}
	all := md5.Sum(p.digests)
	return append(b, all[:]...)
}

// run writes the log and updates the digest, so that little is left to do when the last chunk
// arrives.
func (p *Partial) run() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy = true
	defer func() { p.busy = false; p.wake.Broadcast() }()
	for {
		for len(p.unlogged) == 0 && !p.closed {
			p.busy = false
			p.wake.Broadcast()
			p.wake.Wait()
			p.busy = true
		}
		if p.closed && len(p.unlogged) == 0 {
			return
		}
		fresh := p.unlogged
		p.unlogged = nil
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

// record syncs the bytes of chunks before it writes the log lines that name them.
func (p *Partial) record(lines []byte) error {
	if len(p.chunks) == 1 {
		return nil // a single chunk needs no log: after a crash it is fetched again
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

// ahead returns the number of chunks held from the start without a gap. The caller holds the lock.
func (p *Partial) ahead() int {
	n := p.sum.next
	for n < len(p.chunks) && p.chunks[n].Held {
		n++
	}
	return n
}

// follow adds the chunks before end to the digest. Only run may call it, and Finish while run is
// idle.
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

// ErrDigest means that the bytes do not have the expected digest.
var ErrDigest = errors.New("the bytes do not match the object's digest")

// Again restarts the digest at the first chunk, after chunks were replaced.
func (p *Partial) Again() {
	p.rest()
	defer p.mu.Unlock()
	o := p.Object
	o.Sum = p.stated
	p.sum = newSum(o)
}

// rest waits until run is idle and returns with the lock held.
func (p *Partial) rest() {
	p.mu.Lock()
	for (p.busy || len(p.unlogged) > 0) && !p.closed {
		p.wake.Wait()
	}
}

// Finish checks the digest of an object whose chunks are all held, and makes it whole. It returns
// ErrDigest if the digest is wrong.
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

// publish moves the files of a verified object to the whole objects. The store's lock is not held
// while the disk syncs.
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
	// If this fails, readPartials removes the log at the next start.
	_ = os.Remove(s.path("partial", p.Object.ID+".log"))
	return nil
}

func (p *Partial) rename() error {
	s := p.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.partials[p.Object.ID] != p {
		return fmt.Errorf("object %s was removed in the meantime", p.Object.ID)
	}
	return os.Rename(s.path("partial", p.Object.ID), s.path("objects", p.Object.ID))
}

// Closed closes the files of a partial object that has become whole. Nobody may read from it
// afterwards.
func (p *Partial) Closed() { p.close() }
