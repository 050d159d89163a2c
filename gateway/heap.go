package gateway

import (
	"os"
	"runtime"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
)

// heapFloor is the size, in bytes, to which the heap may grow before garbage is
// collected. Requests leave little that lives, so that by its default the runtime
// would collect hundreds of times per second under load.
const heapFloor = 32 << 20

// TuneHeap keeps the heap at its floor or at twice what lives, whichever is more,
// unless the operator has set GOGC. It is meant for a process that is a gateway
// and nothing else.
func TuneHeap() {
	if os.Getenv("GOGC") == "" {
		(&tuner{percent: 100}).arm()
	}
}

type tuner struct{ percent int }

// arm has tune run after the next collection.
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
	// Setting it stops the world; small changes are not worth that.
	if d := want - t.percent; d > t.percent/5 || d < -t.percent/5 {
		t.percent = want
		debug.SetGCPercent(want)
	}
}

// percentFor is the growth, in percent of what lives, that reaches the floor.
func percentFor(live uint64) int {
	return max(100, int(heapFloor*100/max(live, 1<<20))-100)
}
