package dispatch

import (
	"math/rand/v2"
	"testing"
)

// Whatever lengths clients declare for prompts that begin alike, sharing saves no more than the
// requests were booked with, and nothing once they have ended.
func TestSharingSavesNoMoreThanIsBooked(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var s shared
		var held []*Ticket
		booked := 0
		for len(held) < 40 {
			one := &Ticket{Request: Request{Prompt: []int{1, 300, 5 * BlockTokens, 1 << 31}[rng.IntN(4)]}}
			for i := range 1 + rng.IntN(4) {
				one.Blocks = append(one.Blocks, uint64(i))
			}
			s.add(one)
			held, booked = append(held, one), booked+one.Prompt
			if s.saved < 0 || s.saved >= booked {
				t.Fatalf("of %d tokens %d are saved", booked, s.saved)
			}
		}
		rng.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
		for _, one := range held {
			s.release(one)
			if booked -= one.Prompt; s.saved < 0 || s.saved > booked {
				t.Fatalf("of %d tokens %d are saved", booked, s.saved)
			}
		}
		if s.saved != 0 || len(s.blocks) != 0 {
			t.Fatalf("%d tokens and blocks %v are left", s.saved, s.blocks)
		}
	}
}
