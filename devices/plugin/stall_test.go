package plugin

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"aliquot.example/internal/gpu"
)

// TestADriverThatHangs: its calls never return, and its GPUs must not be offered
// meanwhile.
func TestADriverThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &fakeVendor{found: gpus(2)})
		r.follow(t)
		defer r.stop()
		before := <-r.got
		hung := make(chan struct{})
		r.set(func(h *fakeVendor) { h.hung = hung })
		time.Sleep(stallTime + 3*time.Second)
		synctest.Wait()
		groups := <-r.got
		healthy, sick, why := sound(groups)
		if healthy != 0 || sick != 40 || !strings.Contains(why, "has not answered") {
			t.Fatalf("%d healthy, %d not: %s", healthy, sick, why)
		}
		if len(groups[0].Attributes) != len(before[0].Attributes) {
			t.Errorf("attributes changed with the health: %v", groups[0].Attributes)
		}
		if _, err := r.plugin.Reserve([]string{"GPU-0::00of20"}); err == nil || !strings.Contains(err.Error(), "has not answered") {
			t.Errorf("reserved on a driver that hangs: %v", err)
		}
		time.Sleep(time.Hour)
		if n := r.count(); n != 0 {
			t.Errorf("%d fingerprints while nothing changed", n)
		}
		r.set(func(h *fakeVendor) { h.hung = nil })
		close(hung)
		if healthy, _, _ := sound(<-r.got); healthy != 40 {
			t.Errorf("%d healthy after the driver answered", healthy)
		}
		if _, err := r.plugin.Reserve([]string{"GPU-0::00of20"}); err != nil {
			t.Error(err)
		}
	})
}

// TestStatsEndThoughTheDriverHangs, and those who ask leave nothing behind but the
// one call that hangs.
func TestStatsEndThoughTheDriverHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung := make(chan struct{})
		r := newRig(t, &fakeVendor{found: gpus(1), hung: hung})
		for range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			stream, err := r.plugin.Stats(ctx, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			cancel()
			if _, open := <-stream; open {
				t.Error("statistics of a driver that hangs")
			}
		}
		close(hung)
		synctest.Wait() // and synctest fails the test where a goroutine stays behind
	})
}

// TestReserveOfADriverThatNeverAnswered ends: a plugin that was just started again
// has read nothing yet.
func TestReserveOfADriverThatNeverAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung := make(chan struct{})
		r := newRig(t, &fakeVendor{found: gpus(1), hung: hung})
		if _, err := r.plugin.Reserve([]string{"GPU-0::00of20"}); err == nil || !strings.Contains(err.Error(), "did not answer within") {
			t.Errorf("got %v", err)
		}
		close(hung)
		synctest.Wait()
	})
}

// TestAStormOfNews: a GPU that raises errors all the time must not keep the plugin
// and Nomad busy.
func TestAStormOfNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &fakeVendor{found: gpus(1)})
		r.follow(t)
		defer r.stop()
		<-r.got
		r.set(func(h *fakeVendor) { h.rounds = 0 })
		for range 10 * 1000 {
			r.wake()
			time.Sleep(time.Millisecond)
		}
		r.set(func(h *fakeVendor) {
			if h.rounds > 10*(maxWakes+2) {
				t.Errorf("%d rounds in 10 s", h.rounds)
			}
		})
		// The last news is not lost.
		r.set(func(h *fakeVendor) { h.states = map[gpu.ID]State{"GPU-0": {Problem: "XID 79"}} })
		r.wake()
		time.Sleep(time.Second)
		if _, sick, _ := sound(<-r.got); sick != 20 {
			t.Errorf("%d sick a second after the news", sick)
		}
	})
}
