// Package peer is how the caches of a cluster find each other and ask each other for
// chunks, over TLS with certificates on both sides.
package peer

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"aliquot/cache/fetch"
)

// A chunk travels in frames of a length and as many bytes. Length 0 says that the
// sender is alive and waits itself; the last frame has no bytes but the CRC-32C of the
// whole chunk, or says that the sender has failed.
const (
	frameEnd  = 0xffffffff
	frameFail = 0xfffffffe
	// longestFrame bounds what a receiver believes, in bytes.
	longestFrame = 1 << 20
	// alive is how often a sender says that it is.
	alive = 300 * time.Millisecond
)

// frames reads the bytes of a chunk. Read returns 0 bytes without an error when the
// sender is alive and has nothing yet.
type frames struct {
	io.Closer
	r    *bufio.Reader
	left int
	sum  uint32
	end  bool
}

func (f *frames) Read(p []byte) (int, error) {
	if f.end {
		return 0, io.EOF
	}
	if f.left == 0 {
		n, err := f.word()
		switch {
		case err != nil:
			return 0, err
		case n == 0:
			return 0, nil
		case n == frameFail:
			return 0, errors.New("the peer could not fetch it")
		case n == frameEnd:
			f.end = true
			if f.sum, err = f.word(); err != nil {
				return 0, err
			}
			return 0, io.EOF
		case n > longestFrame:
			return 0, fmt.Errorf("a frame of %d bytes: this is no cache", n)
		}
		f.left = int(n)
	}
	n, err := f.r.Read(p[:min(len(p), f.left)])
	f.left -= n
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (f *frames) word() (uint32, error) {
	var b [4]byte
	if _, err := io.ReadFull(f.r, b[:]); err != nil {
		return 0, io.ErrUnexpectedEOF
	}
	return binary.BigEndian.Uint32(b[:]), nil
}

// send writes a chunk from an offset within it. The first bytes are read all the same:
// the CRC is that of the whole chunk.
func send(ctx context.Context, w io.Writer, flush func(), r io.Reader, offset int64, account func(context.Context, int) error) error {
	pieces := make(chan []byte)
	failed := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { failed <- cut(ctx, r, pieces) }()
	word := func(n uint32) error {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], n)
		_, err := w.Write(b[:])
		return err
	}
	tick := time.NewTicker(alive)
	defer tick.Stop()
	sum := uint32(0)
	for {
		select {
		case <-tick.C:
			if err := word(0); err != nil {
				return err
			}
		case p := <-pieces:
			sum = fetch.CRC(sum, p)
			skip := min(offset, int64(len(p)))
			p, offset = p[skip:], offset-skip
			if len(p) == 0 {
				continue
			}
			if err := account(ctx, len(p)); err != nil {
				return err
			}
			if err := word(uint32(len(p))); err != nil {
				return err
			}
			if _, err := w.Write(p); err != nil {
				return err
			}
		case err := <-failed:
			if err != nil {
				_ = word(frameFail)
				return err
			}
			return errors.Join(word(frameEnd), word(sum))
		}
		flush()
	}
}

// cut reads in pieces. While one is sent another is filled.
func cut(ctx context.Context, r io.Reader, pieces chan<- []byte) error {
	buffers := [3][]byte{make([]byte, 256<<10), make([]byte, 256<<10), make([]byte, 256<<10)}
	for i := 0; ; i = (i + 1) % len(buffers) {
		n, err := r.Read(buffers[i])
		if n > 0 {
			select {
			case pieces <- buffers[i][:n]:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
