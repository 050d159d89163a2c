//go:build !race

package socket

import (
	"syscall"
	"testing"
)

// Offer does not wait for a socket that takes nothing, even where someone put the descriptor into
// blocking mode, as os.File.Fd does.
func TestAnOfferDoesNotWait(t *testing.T) {
	a, _ := pair(t)
	s := Of(a)
	if err := s.Control(func(fd uintptr) { syscall.SetNonblock(int(fd), false) }); err != nil {
		t.Fatal(err)
	}
	piece := make([]byte, maxQuick)
	for range 1000 {
		n, err := s.Offer(piece)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return
		}
	}
	t.Error("the socket took all")
}
