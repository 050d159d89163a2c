package dispatch

// shared counts the blocks of the prompts that a replica has in flight. Prompts that begin
// alike share these blocks in its cache: it holds them once.
type shared struct {
	blocks map[uint64]copies
	saved  int // tokens that the cache need not hold again
}

// copies is how many requests in flight have a block, the tokens that it is taken to have, and
// those of all of these requests. A request that declares fewer for a block saves no more than that.
type copies struct{ n, tokens, sum int }

func (c copies) saved() int { return max(0, c.sum-c.tokens) }

// blockTokens is how many tokens of a prompt each of its blocks has, by its length in tokens.
func (r *Request) blockTokens() int {
	return min(BlockTokens, max(r.Prompt, 1)/max(len(r.Blocks), 1))
}

func (s *shared) hold(t *Ticket) {
	if s.blocks == nil && len(t.Blocks) > 0 {
		s.blocks = map[uint64]copies{}
	}
	t.entry.block = t.blockTokens()
	for _, hash := range t.Blocks {
		c := s.blocks[hash]
		s.saved -= c.saved()
		if c.n++; c.n == 1 {
			c.tokens = t.entry.block
		}
		c.sum += t.entry.block
		s.saved += c.saved()
		s.blocks[hash] = c
	}
}

func (s *shared) letGo(t *Ticket) {
	for _, hash := range t.Blocks {
		c := s.blocks[hash]
		s.saved -= c.saved()
		c.n, c.sum = c.n-1, c.sum-t.entry.block
		if c.n == 0 {
			delete(s.blocks, hash)
			continue
		}
		s.saved += c.saved()
		s.blocks[hash] = c
	}
}

// of is how many tokens at the beginning of a request's prompt others in flight have.
func (s *shared) of(blocks []uint64) (tokens int) {
	for _, hash := range blocks {
		c := s.blocks[hash]
		if c.n == 0 {
			break
		}
		tokens += c.tokens
	}
	return tokens
}
