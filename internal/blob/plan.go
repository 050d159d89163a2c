package blob

import (
	"cmp"
	"slices"
)

// Want is a part of an object that somebody waits for: the chunks from Next to before
// End, in order.
type Want struct{ Next, End int }

// Next chooses the chunk to fetch next, and the want that it is for. A reader waits for
// the chunk under its position, so the one that is fewest chunks ahead of its reader
// comes first. taken reports whether a chunk is held or on its way.
func Next(wants []Want, taken func(chunk int) bool) (chunk, want int, ok bool) {
	ahead := 0
	for i, w := range wants {
		for n := w.Next; n < w.End; n++ {
			if ok && n-w.Next >= ahead {
				break // no better than what was found
			}
			if !taken(n) {
				chunk, want, ahead, ok = n, i, n-w.Next, true
				break
			}
		}
	}
	return chunk, want, ok
}

// Entry is an object that takes room.
type Entry struct {
	ID   string
	Size int64
	// Used is when it was last used, in any unit that grows.
	Used int64
	// Kept is set for what may not be evicted: it is pinned or in use.
	Kept bool
}

// Evict chooses what to remove, the longest unused first, so that need bytes become
// free. Without ok even all that may go is not enough, and nothing should.
func Evict(entries []Entry, need int64) (victims []string, ok bool) {
	free := slices.Clone(entries)
	free = slices.DeleteFunc(free, func(e Entry) bool { return e.Kept })
	slices.SortFunc(free, func(a, b Entry) int { return cmp.Or(cmp.Compare(a.Used, b.Used), cmp.Compare(a.ID, b.ID)) })
	for _, e := range free {
		if need <= 0 {
			break
		}
		need -= e.Size
		victims = append(victims, e.ID)
	}
	if need > 0 {
		return nil, false
	}
	return victims, true
}
