// Package peer connects the caches of a cluster: they find each other and request chunks from each
// other, over TLS with certificates on both sides.
package peer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"aliquot.example/cache/fetch"
)

// A chunk is sent as frames, each a length and that many bytes. Length 0 means that the sender is
// alive and waits for bytes itself. The last frame has the CRC-32C of the whole chunk, or means that
// the sender has failed.
const (
	frameEnd  = 0xffffffff
	frameFail = 0xfffffffe
	// maxFrame is the longest frame that a receiver accepts, in bytes.
	maxFrame = 1 << 20
	// aliveInterval is the interval at which a waiting sender sends length 0.
	aliveInterval = 300 * time.Millisecond
)

// frames reads the bytes of a chunk. Read returns 0 bytes without an error when the
// sender is alive and has nothing yet.
type frames struct {
	io.ReadCloser
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
			return 0, errors.New("the peer could not fetch the chunk")
		case n == frameEnd:
			f.end = true
			if f.sum, err = f.word(); err != nil {
				return 0, err
			}
			return 0, io.EOF
		case n > maxFrame:
			return 0, fmt.Errorf("received a frame of %d bytes: the peer is not a cache", n)
		}
		f.left = int(n)
	}
	n, err := f.ReadCloser.Read(p[:min(len(p), f.left)])
	f.left -= n
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (f *frames) word() (uint32, error) {
	var b [4]byte
	if _, err := io.ReadFull(f.ReadCloser, b[:]); err != nil {
		return 0, io.ErrUnexpectedEOF
	}
	return binary.BigEndian.Uint32(b[:]), nil
}

// headLen is the length of a frame's head, in bytes.
const headLen = 4

// buffer holds a frame with its head.
type buffer [headLen + 256<<10]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// flushFrom is the length from which a frame needs no flush: the server writes at once what does
// not fit into its buffers.
const flushFrom = 16 << 10

// send writes a chunk from an offset within it. If the CRC of the whole chunk is not known, send
// reads the bytes before the offset too.
func send(ctx context.Context, w io.Writer, flush func(), r *fetch.Reader, q fetch.ChunkRequest,
	account func(context.Context, int) error) error {
	frame := buffers.Get().(*buffer)
	defer buffers.Put(frame)
	word := func(n uint32) error {
		var b [headLen]byte
		binary.BigEndian.PutUint32(b[:], n)
		_, err := w.Write(b[:])
		return err
	}
	tick := time.NewTicker(aliveInterval)
	defer tick.Stop()
	sum, offset := uint32(0), q.Offset
	for {
		n, err := r.ReadUntil(frame[headLen:], tick.C)
		if !r.Summed() {
			sum = fetch.CRC(sum, frame[headLen:headLen+n])
		}
		switch {
		case n > 0:
			skip := min(offset, int64(n))
			offset -= skip
			err = writeFrame(ctx, w, flush, frame[skip:headLen+n], account)
		case err == nil:
			err = word(0)
			flush()
		case err == io.EOF:
			if r.Summed() {
				if sum, err = r.Sum(q.Chunk); err != nil {
					_ = word(frameFail)
					return err
				}
			}
			return errors.Join(word(frameEnd), word(sum))
		default:
			_ = word(frameFail)
		}
		if err != nil {
			return err
		}
	}
}

// writeFrame writes a frame whose head is still empty.
func writeFrame(ctx context.Context, w io.Writer, flush func(), frame []byte,
	account func(context.Context, int) error) error {
	n := len(frame) - headLen
	if n == 0 {
		return nil
	}
	if err := account(ctx, n); err != nil {
		return err
	}
	binary.BigEndian.PutUint32(frame, uint32(n))
	_, err := w.Write(frame)
	if len(frame) < flushFrom {
		flush()
	}
	return err
}
