package dispatch

// heap is a binary heap whose items know their position, so that any of them can be moved or
// removed in O(log n).
type heap[T any] struct {
	items []T
	less  func(a, b T) bool
	place func(item T, index int) // sets an item's position; -1 when it leaves
}

func (h *heap[T]) len() int { return len(h.items) }

func (h *heap[T]) push(item T) {
	h.items = append(h.items, item)
	h.up(len(h.items) - 1)
}

func (h *heap[T]) remove(i int) {
	last := len(h.items) - 1
	item := h.items[i]
	h.items[i] = h.items[last]
	var zero T
	h.items[last] = zero
	h.items = h.items[:last]
	if i < last {
		h.fix(i)
	}
	h.place(item, -1)
}

// fix restores the order after the rank of the item at i has changed.
func (h *heap[T]) fix(i int) {
	if !h.down(i) {
		h.up(i)
	}
}

func (h *heap[T]) up(i int) {
	item := h.items[i]
	for i > 0 {
		parent := (i - 1) / 2
		if !h.less(item, h.items[parent]) {
			break
		}
		h.items[i] = h.items[parent]
		h.place(h.items[i], i)
		i = parent
	}
	h.items[i] = item
	h.place(item, i)
}

func (h *heap[T]) down(start int) bool {
	i, item := start, h.items[start]
	for {
		child := 2*i + 1
		if child >= len(h.items) {
			break
		}
		if right := child + 1; right < len(h.items) && h.less(h.items[right], h.items[child]) {
			child = right
		}
		if !h.less(h.items[child], item) {
			break
		}
		h.items[i] = h.items[child]
		h.place(h.items[i], i)
		i = child
	}
	h.items[i] = item
	h.place(item, i)
	return i > start
}
