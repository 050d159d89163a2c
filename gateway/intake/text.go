package intake

import (
	"context"
	"io"
	"sync"
)

// texts are buffers for bodies that are looked at.
var texts = sync.Pool{New: func() any { return new([]byte) }}

// mostPooled bounds the buffers that are kept, in bytes.
const mostPooled = 1 << 20

// Text gives read the beginning of what is kept in one piece, at most so many bytes,
// and returns why there were fewer. It may have to copy, for which it waits until the
// copies of other bodies leave room. The text is read's only until it returns.
func (b *Body) Text(most int64, read func(text []byte)) error {
	n := min(b.kept, most)
	if len(b.chunks) > 0 && int64(len(b.chunks[0])) >= n {
		read(b.chunks[0][:n])
		return nil
	}
	weight := min(n, b.store.copying)
	if err := b.store.copies.Acquire(context.Background(), weight); err != nil {
		return err
	}
	defer b.store.copies.Release(weight)
	kept := texts.Get().(*[]byte)
	if int64(cap(*kept)) < n {
		*kept = make([]byte, n)
	}
	text := (*kept)[:n]
	got, err := io.ReadFull(b.Kept(), text)
	read(text[:got])
	if cap(text) <= mostPooled {
		clear(text)
		texts.Put(kept)
	}
	return err
}
