package engine

// memory is the KV cache: blocks of a fixed number of tokens. A block belongs to one sequence or to
// a page, which holds a part of a prompt that sequences can share. Pages that no sequence holds
// stay until their blocks are needed. The page released first is evicted first.
type memory struct {
	block, page int // tokens in a block and in a page
	total, free int // blocks, and blocks that hold nothing
	idle        int // blocks of pages that no sequence holds
	pages       map[uint64]*page
	// oldest and newest are the ends of the list of pages that no sequence holds.
	oldest, newest *page
}

type page struct {
	hash       uint64
	holders    int
	prev, next *page // older and newer page, while no sequence holds it
}

func newMemory(tokens, block, pageTokens int) *memory {
	total := tokens / block
	return &memory{block: block, page: pageTokens, total: total, free: total, pages: map[uint64]*page{}}
}

func (m *memory) perPage() int { return m.page / m.block }

// used returns the number of blocks that sequences hold.
func (m *memory) used() int { return m.total - m.free - m.idle }

// match returns how many pages of a prefix are cached, at most most.
func (m *memory) match(prefix []uint64, most int) int {
	n := 0
	for n < len(prefix) && n < most && m.pages[prefix[n]] != nil {
		n++
	}
	return n
}

// hold takes a reference to a page for one more sequence.
func (m *memory) hold(p *page) {
	if p.holders == 0 {
		m.unlink(p)
		m.idle -= m.perPage()
	}
	p.holders++
}

// letGo releases a reference to a page.
func (m *memory) letGo(p *page) {
	if p.holders--; p.holders > 0 {
		return
	}
	m.idle += m.perPage()
	p.prev = m.newest
	if m.newest == nil {
		m.oldest = p
	} else {
		m.newest.next = p
	}
	m.newest = p
}

func (m *memory) unlink(p *page) {
	if p.prev == nil {
		m.oldest = p.next
	} else {
		p.prev.next = p.next
	}
	if p.next == nil {
		m.newest = p.prev
	} else {
		p.next.prev = p.prev
	}
	p.prev, p.next = nil, nil
}

// grow allocates blocks until a sequence has room for tokens tokens. It returns false and changes
// nothing if there is not enough room.
func (m *memory) grow(s *Sequence, tokens int) bool {
	need := (tokens-len(s.pages)*m.page+m.block-1)/m.block - s.blocks
	if need <= 0 {
		return true
	}
	if need > m.free+m.idle {
		return false
	}
	for m.free < need {
		p := m.oldest
		m.unlink(p)
		delete(m.pages, p.hash)
		m.idle -= m.perPage()
		m.free += m.perPage()
	}
	m.free -= need
	s.blocks += need
	return true
}

// share turns what a sequence has computed of its prefix into pages. If another sequence has
// computed the same page meanwhile, share takes that page and frees the duplicate.
func (m *memory) share(s *Sequence) {
	for i := len(s.pages); i < len(s.Prefix) && (i+1)*m.page <= min(s.computed, s.Prompt); i++ {
		s.blocks -= m.perPage()
		p := m.pages[s.Prefix[i]]
		if p != nil {
			m.free += m.perPage()
			m.hold(p)
		} else {
			p = &page{hash: s.Prefix[i], holders: 1}
			m.pages[p.hash] = p
		}
		s.pages = append(s.pages, p)
	}
}

// release frees everything that a sequence holds. It starts at the end of the prefix, because a
// page is useless without the pages before it.
func (m *memory) release(s *Sequence) {
	for i := len(s.pages) - 1; i >= 0; i-- {
		m.letGo(s.pages[i])
	}
	m.free += s.blocks
	s.pages, s.blocks, s.computed = s.pages[:0], 0, 0
}
