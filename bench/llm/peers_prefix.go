package main

import (
	"container/list"
	"math/rand/v2"
	"time"
)

// kvBlock is the tokens of a block in the accounts of the peers.
const kvBlock = 16

// index is what a router believes a replica's prefix cache to hold: the pages that it
// sent there last.
type index struct {
	most  int
	order *list.List // oldest first
	where map[uint64]*list.Element
}

func newIndex(pages int) *index {
	return &index{most: pages, order: list.New(), where: map[uint64]*list.Element{}}
}

func (x *index) add(prefix []uint64) {
	for i := len(prefix) - 1; i >= 0; i-- { // the end is the first to go
		if e := x.where[prefix[i]]; e != nil {
			x.order.MoveToBack(e)
			continue
		}
		x.where[prefix[i]] = x.order.PushBack(prefix[i])
		if x.order.Len() > x.most {
			delete(x.where, x.order.Remove(x.order.Front()).(uint64))
		}
	}
}

// match is the pages of a prefix that are there.
func (x *index) match(prefix []uint64) int {
	for i, h := range prefix {
		if x.where[h] == nil {
			return i
		}
	}
	return len(prefix)
}

// scraped is a replica's metrics as they were read last.
type scraped struct{ waiting, usage float64 }

// endpointPicker is llm-d's and the Gateway API inference extension's default: the
// scorers queue (weight 2), KV cache use (2) and prefix (3), the best of the sum. Its
// metrics are at most every old; it matches at most 4096 tokens of a prompt.
type endpointPicker struct {
	early
	every   time.Duration
	next    time.Duration
	metrics []scraped
	index   []*index
}

func newEndpointPicker(random *rand.Rand) policy {
	const longestMatch = 256 * kvBlock
	p := &endpointPicker{every: 100 * time.Millisecond}
	p.pick = func(s *sim, r *request) int {
		if p.index == nil {
			p.scrape(s)
			for _, x := range s.replicas {
				p.index = append(p.index, newIndex(x.hardware.KVTokens/page))
			}
		}
		prefix := r.prefix[:min(len(r.prefix), longestMatch/page)]
		blocks := max(1, min(r.prompt, longestMatch)/kvBlock)
		lo, hi := p.metrics[0].waiting, p.metrics[0].waiting
		for _, m := range p.metrics {
			lo, hi = min(lo, m.waiting), max(hi, m.waiting)
		}
		to := least(len(s.replicas), random, func(i int) float64 {
			queue := 1.0
			if hi > lo {
				queue = (hi - p.metrics[i].waiting) / (hi - lo)
			}
			hit := float64(p.index[i].match(prefix)*page/kvBlock) / float64(blocks)
			return -(2*queue + 2*(1-p.metrics[i].usage) + 3*hit)
		})
		p.index[to].add(prefix)
		return to
	}
	return p
}

func (p *endpointPicker) scrape(s *sim) {
	p.metrics = p.metrics[:0]
	for _, x := range s.replicas {
		p.metrics = append(p.metrics, scraped{float64(x.engine.Waiting()), x.engine.KVUsage()})
	}
	p.next = s.now + p.every
}

func (p *endpointPicker) settled(s *sim) {
	if s.now >= p.next {
		p.scrape(s)
	}
}

func (p *endpointPicker) wake() time.Duration { return p.next }

// dynamo is the cost of NVIDIA Dynamo's KV router with its defaults: blocks to prefill
// plus blocks in use, each with the request added, by an exact index.
func dynamo(random *rand.Rand) policy {
	type books struct {
		prefill int // tokens that are sent and have no first token yet
		tails   int // blocks of prompts that no page covers
		holders map[uint64]int
	}
	var of []*books
	fresh := map[*request]int{}
	p := &early{}
	tail := func(r *request) int { return (r.prompt - len(r.prefix)*page + kvBlock - 1) / kvBlock }
	uncached := func(s *sim, i int, r *request) int { return r.prompt - s.replicas[i].engine.Cached(r.prefix) }
	p.pick = func(s *sim, r *request) int {
		for len(of) < len(s.replicas) {
			of = append(of, &books{holders: map[uint64]int{}})
		}
		to := least(len(s.replicas), random, func(i int) float64 {
			b := of[i]
			pages := len(b.holders)
			for _, h := range r.prefix {
				if b.holders[h] == 0 {
					pages++
				}
			}
			prefill := float64(b.prefill+uncached(s, i, r)) / kvBlock
			return prefill + float64(pages*page/kvBlock+b.tails+tail(r))
		})
		fresh[r] = uncached(s, to, r)
		of[to].prefill += fresh[r]
		of[to].tails += tail(r)
		for _, h := range r.prefix {
			of[to].holders[h]++
		}
		return to
	}
	p.began = func(r *request) {
		of[r.replica].prefill -= fresh[r]
		delete(fresh, r)
	}
	p.ended = func(r *request) {
		b := of[r.replica]
		b.tails -= tail(r)
		for _, h := range r.prefix {
			if b.holders[h]--; b.holders[h] == 0 {
				delete(b.holders, h)
			}
		}
	}
	return p
}

// sglang is the cache_aware policy of SGLang's router with its defaults: the longest
// match where it covers enough of the prompt, else the replica with the smallest tree;
// the fewest requests where they are out of balance.
func sglang(random *rand.Rand) policy {
	const threshold, apart, ratio = 0.3, 64, 1.5
	owner := map[uint64]int{} // of a page, the replica that had it first
	var tree []int            // pages by replica
	held := map[[2]uint64]bool{}
	p := &early{}
	insert := func(r *request, to int) {
		for _, h := range r.prefix {
			if _, ok := owner[h]; !ok {
				owner[h] = to
			}
			if k := [2]uint64{uint64(to), h}; !held[k] {
				held[k] = true
				tree[to]++
			}
		}
	}
	p.pick = func(s *sim, r *request) int {
		if tree == nil {
			tree = make([]int, len(s.replicas))
		}
		lo, hi := p.active[0], p.active[0]
		for _, n := range p.active {
			lo, hi = min(lo, n), max(hi, n)
		}
		matched, of := 0, -1
		for _, h := range r.prefix {
			i, ok := owner[h]
			if !ok {
				break
			}
			matched, of = matched+page, i
		}
		var to int
		switch {
		case hi-lo > apart && float64(hi) > ratio*float64(lo):
			to = least(len(s.replicas), random, func(i int) float64 { return float64(p.active[i]) })
		case float64(matched) > threshold*float64(r.prompt):
			to = of
		default:
			to = least(len(s.replicas), random, func(i int) float64 { return float64(tree[i]) })
		}
		insert(r, to)
		return to
	}
	return p
}
