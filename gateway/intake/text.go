package intake

import (
	"context"
	"io"
	"sync"
)

// texts has buffers for Text.
var texts = sync.Pool{New: func() any { return new([]byte) }}

// maxPooled is the largest size of a buffer in the pool, in bytes.
const maxPooled = 1 << 20

// Text calls read with the first bytes of the kept part, at most `most`, in one piece. It returns
// an error if there are fewer than expected. If it has to copy them, it waits until the copies of
// other bodies leave enough space. read must not keep the text.
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
	if cap(text) <= maxPooled {
		clear(text)
		texts.Put(kept)
	}
	return err
}
