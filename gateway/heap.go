package gateway

import (
	"os"
	"runtime"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
)

// heapFloor is the size, in bytes, to which the heap may grow before a garbage collection. Requests
// leave little live data, so with the default settings the runtime would collect hundreds of times
// per second under load.
const heapFloor = 32 << 20

// TuneHeap lets the heap grow to heapFloor or to twice the live data, whichever is larger, unless
// GOGC is set. Use it only in a process that is just a gateway.
func TuneHeap() {
	if os.Getenv("GOGC") == "" {
		(&tuner{percent: 100}).arm()
	}
}

type tuner struct{ percent int }

// arm makes tune run after the next collection.
func (t *tuner) arm() {
	type collected struct{ t *tuner }
	runtime.SetFinalizer(&collected{t}, func(c *collected) {
		c.t.tune()
		c.t.arm()
	})
}

func (t *tuner) tune() {
	live := []runtimemetrics.Sample{{Name: "/gc/heap/live:bytes"}}
	runtimemetrics.Read(live)
	want := percentFor(live[0].Value.Uint64())
	// SetGCPercent stops the world: ignore small changes.
	if d := want - t.percent; d > t.percent/5 || d < -t.percent/5 {
		t.percent = want
		debug.SetGCPercent(want)
	}
}

// percentFor returns the growth, in percent of the live data, that reaches the floor, at least 100.
func percentFor(live uint64) int {
	return max(100, int(heapFloor*100/max(live, 1<<20))-100)
}
