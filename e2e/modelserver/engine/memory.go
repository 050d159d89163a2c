package engine

// memory is the KV cache: blocks of a fixed number of tokens. A block belongs to one
// sequence, or is part of a page, which holds a piece of a prompt that sequences
// share. Pages that no sequence holds stay until their blocks are needed; the one
// that was let go first goes first.
type memory struct {
	block, page int // tokens of one block and of one page
	total, free int // blocks, and those that hold nothing
	idle        int // blocks of pages that no sequence holds
	pages       map[uint64]*page
	// oldest and newest end the list of pages that no sequence holds.
	oldest, newest *page
}

type page struct {
	hash       uint64
	holders    int
	prev, next *page // older and newer, while nobody holds it
}

func newMemory(tokens, block, pageTokens int) *memory {
	total := tokens / block
	return &memory{block: block, page: pageTokens, total: total, free: total, pages: map[uint64]*page{}}
}

func (m *memory) perPage() int { return m.page / m.block }

// used is the blocks that sequences hold.
func (m *memory) used() int { return m.total - m.free - m.idle }

// match returns how many pages of a prefix are there, of at most most.
func (m *memory) match(prefix []uint64, most int) int {
	n := 0
	for n < len(prefix) && n < most && m.pages[prefix[n]] != nil {
		n++
	}
	return n
}

// hold takes a page for one more sequence.
func (m *memory) hold(p *page) {
	if p.holders == 0 {
		m.unlink(p)
		m.idle -= m.perPage()
	}
	p.holders++
}

// letGo is the opposite of hold.
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

// grow gives a sequence the blocks for so many tokens in all; false, and nothing is
// changed, when there is no room.
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

// share turns what a sequence has computed of its prefix into pages. Where another
// sequence has computed the same meanwhile, its page is held and the double is freed.
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

// release takes everything from a sequence. The end of its prefix is let go first,
// because a page is of no use without those before it.
func (m *memory) release(s *Sequence) {
	for i := len(s.pages) - 1; i >= 0; i-- {
		m.letGo(s.pages[i])
	}
	m.free += s.blocks
	s.pages, s.blocks, s.computed = s.pages[:0], 0, 0
}
