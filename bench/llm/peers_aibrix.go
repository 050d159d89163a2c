package main

import (
	"math"
	"math/rand/v2"
)

// aibrix is the prefix-cache strategy of AIBrix's gateway, as documented and with the
// documented defaults: the replica with the most of the prompt among those whose
// requests are not more than a standard deviation above the mean, and the one with the
// fewest requests where none has any of it or where the requests are too uneven. It
// counts in requests, and a prefix in the characters of its blocks.
func aibrix(random *rand.Rand) policy {
	const (
		uneven     = 8
		deviations = 1
		blocks     = 200_000 // of the table, over all replicas
		characters = 128     // of a block
	)
	var tables []*index
	p := &early{}
	p.pick = func(s *sim, r *request) int {
		if tables == nil {
			for range s.replicas {
				tables = append(tables, newIndex(blocks*characters/tokenBytes/page/len(s.replicas)))
			}
		}
		lo, hi, sum, squares := p.active[0], p.active[0], 0.0, 0.0
		for _, n := range p.active {
			lo, hi = min(lo, n), max(hi, n)
			sum += float64(n)
			squares += float64(n * n)
		}
		n := float64(len(p.active))
		mean := sum / n
		most := mean + deviations*math.Sqrt(max(0, squares/n-mean*mean))
		to, longest := -1, 0
		for i := range tables {
			hit := tables[i].match(r.prefix)
			switch {
			case hi-lo > uneven || hit == 0 || float64(p.active[i]) > most:
			case hit > longest || hit == longest && p.active[i] < p.active[to]:
				to, longest = i, hit
			}
		}
		if to < 0 {
			to = least(len(s.replicas), random, func(i int) float64 { return float64(p.active[i]) })
		}
		tables[to].add(r.prefix)
		return to
	}
	return p
}
