package dispatch

// shared counts the blocks of the prompts that a replica has in flight. Prompts that begin
// alike share these blocks in its cache: it holds them once.
type shared struct {
	blocks map[uint64]copies
	saved  int // tokens that the cache need not hold again
}

// copies is how many requests in flight have a block, and the tokens that it is taken to have.
type copies struct{ n, tokens int }

// blockTokens is how many tokens of a prompt each of its blocks has, by its length in tokens.
func (r *Request) blockTokens() int {
	return min(BlockTokens, max(r.Prompt, 1)/max(len(r.Blocks), 1))
}

func (s *shared) hold(t *Ticket) {
	if s.blocks == nil && len(t.Blocks) > 0 {
		s.blocks = map[uint64]copies{}
	}
	for _, hash := range t.Blocks {
		c := s.blocks[hash]
		if c.n++; c.n == 1 {
			c.tokens = t.blockTokens()
		} else {
			s.saved += c.tokens
		}
		s.blocks[hash] = c
	}
}

func (s *shared) letGo(blocks []uint64) {
	for _, hash := range blocks {
		c := s.blocks[hash]
		if c.n--; c.n == 0 {
			delete(s.blocks, hash)
			continue
		}
		s.saved -= c.tokens
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
