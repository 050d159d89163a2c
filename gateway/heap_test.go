package gateway

import (
	"runtime"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"testing"
)

func TestTheHeapGrowsToItsFloorOrTwiceWhatLives(t *testing.T) {
	for live, want := range map[uint64]int{0: 3100, 1 << 20: 3100, 8 << 20: 300, 16 << 20: 100, 1 << 30: 100} {
		if got := percentFor(live); got != want {
			t.Errorf("%d MiB live: %d percent, want %d", live>>20, got, want)
		}
	}
	t.Setenv("GOGC", "")
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	TuneHeap()
	for range 100 {
		collect()
		percent := []runtimemetrics.Sample{{Name: "/gc/gogc:percent"}}
		if runtimemetrics.Read(percent); percent[0].Value.Uint64() > 100 {
			return
		}
	}
	t.Error("the percentage stays at 100")
}

// collect returns when finalizers of a collection of garbage have run.
func collect() {
	done := make(chan struct{})
	runtime.SetFinalizer(new([]byte), func(*[]byte) { close(done) })
	runtime.GC()
	<-done
}
