package gateway

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestTheHeapGrowsToItsFloorOrTwiceWhatLives(t *testing.T) {
	for live, want := range map[uint64]int{0: 3100, 1 << 20: 3100, 8 << 20: 300, 16 << 20: 100, 1 << 30: 100} {
		if got := percentFor(live); got != want {
			t.Errorf("%d MiB live: %d percent, want %d", live>>20, got, want)
		}
	}
	t.Setenv("GOGC", "")
	debug.SetGCPercent(100)
	TuneHeap()
	for range 1000 {
		runtime.GC()
		// Reading the percentage sets it.
		if got := debug.SetGCPercent(100); got > 100 {
			debug.SetGCPercent(got)
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Error("the percentage stays at 100")
}
