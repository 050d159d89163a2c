package dispatch

// shared counts the blocks of the prompts that a replica has in flight. Prompts with the same
// beginning share these blocks in its cache, which holds them only once.
type shared struct {
	blocks map[uint64]refs
	saved  int // tokens that the cache does not have to hold again
}

// refs counts the requests in flight that have a block: their number, the block's tokens, and the
// sum of the tokens of all these requests. A request that declares fewer tokens for a block saves
// only those.
type refs struct{ n, tokens, sum int }

func (c refs) saved() int { return max(0, c.sum-c.tokens) }

// blockTokens returns the number of tokens in each block of the prompt, derived from its length.
func (r *Request) blockTokens() int {
	return min(BlockTokens, max(r.Prompt, 1)/max(len(r.Blocks), 1))
}

func (s *shared) add(t *Ticket) {
	if s.blocks == nil && len(t.Blocks) > 0 {
		s.blocks = map[uint64]refs{}
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

func (s *shared) release(t *Ticket) {
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

// of returns how many tokens at the beginning of a prompt are also in prompts in flight.
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
