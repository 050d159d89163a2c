package prompt

import (
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cpu is the processor time that f takes, in the best of some runs; what else runs on
// the machine does not count.
func cpu(t *testing.T, f func()) time.Duration {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const thread = 1 // RUSAGE_THREAD of Linux
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(thread, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	best := time.Hour
	for range 3 {
		began := used()
		f()
		best = min(best, used()-began)
	}
	return max(best, time.Microsecond)
}

// A body of which every few bytes name an image must not cost many times what as much
// text costs.
func TestMediaCostWhatTheirBytesCost(t *testing.T) {
	const length = 4 << 20
	of := func(part string) string {
		return `{"messages":[{"role":"user","content":[{` + strings.Repeat(part, length/len(part)) + `"type":"x"}]}]}`
	}
	media, text := of(`"url":"http",`), of(`"uri":"text",`)
	if s := read(Chat, media); s.Media != length/13 || len(s.Blocks) != maxBlocks {
		t.Fatalf("%d media, %d blocks", s.Media, len(s.Blocks))
	}
	named, written := cpu(t, func() { read(Chat, media) }), cpu(t, func() { read(Chat, text) })
	t.Logf("%d bytes: %v as media, %v as text", length, named, written)
	if named > 5*written {
		t.Errorf("%d bytes of media took %v, as much text %v", length, named, written)
	}
}
