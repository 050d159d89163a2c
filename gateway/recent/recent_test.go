package recent

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"aliquot.example/internal/api"
)

func request(second int64, took float64, outcome string) *api.Request {
	return &api.Request{Began: time.Unix(second, 0), Outcome: outcome, Total: took}
}

// What is kept of a minute is what sorting all of its requests gives.
func TestSlowestOfEachMinute(t *testing.T) {
	var r Requests
	all := map[int64][]float64{}
	rng := rand.New(rand.NewPCG(1, 2))
	for second := int64(6000); second < 6000+10*60; second++ {
		for range rng.IntN(20) {
			took := rng.ExpFloat64() * 100
			all[second/60] = append(all[second/60], took)
			if r.Slow(second, took) {
				r.Add(second, request(second, took, "served"), false)
			}
		}
	}
	slow, failed := r.List(6000 + 10*60)
	got := map[int64][]float64{}
	for _, q := range slow {
		got[q.Began.Unix()/60] = append(got[q.Began.Unix()/60], q.Total)
	}
	for minute, times := range all {
		slices.Sort(times)
		slices.Sort(got[minute])
		if want := times[max(0, len(times)-maxSlow):]; !slices.Equal(got[minute], want) {
			t.Errorf("minute %d: got %v, want %v", minute, got[minute], want)
		}
	}
	if len(failed) > 0 || !slices.IsSortedFunc(slow, func(a, b api.Request) int { return b.Began.Compare(a.Began) }) {
		t.Errorf("%d failed; slow %v", len(failed), slow)
	}
}

func TestOldMinutesAreForgotten(t *testing.T) {
	var r Requests
	for minute := range int64(100) {
		r.Add(minute*60, request(minute*60, 1, "served"), false)
	}
	if slow, _ := r.List(99 * 60); len(slow) != minutes {
		t.Errorf("%d are kept", len(slow))
	}
	if !r.Slow(10*60, 0) {
		t.Error("after the clock was set back, the bar of later requests holds")
	}
	r.Add(10*60, request(10*60, 0.5, "served"), false)
	if slow, _ := r.List(10 * 60); len(slow) != 1 || slow[0].Total != 0.5 {
		t.Errorf("after the clock was set back there are %v", slow)
	}
	if slow, _ := r.List(1000 * 60); len(slow) != 0 {
		t.Errorf("after hours without a request there are %v", slow)
	}
}

// A flood of one kind of failure does not hide another kind.
func TestFailuresByOutcome(t *testing.T) {
	var r Requests
	r.Add(5, request(5, 1, "broken"), true)
	for i := range int64(1000) {
		r.Add(10+i, request(10+i, 1, "queue_full"), true)
	}
	_, failed := r.List(1010)
	if len(failed) != maxFailed+1 || failed[len(failed)-1].Outcome != "broken" || failed[0].Began.Unix() != 1009 {
		t.Errorf("%v", failed)
	}
}

func TestManyAtOnce(t *testing.T) {
	var r Requests
	var all sync.WaitGroup
	for g := range int64(8) {
		all.Go(func() {
			for i := range int64(2000) {
				if second := i / 10; r.Slow(second, float64(i%100)) {
					r.Add(second, request(second, float64(i%100), "served"), g == 0 && i%100 == 0)
				}
				if i%500 == 0 {
					r.List(i / 10)
				}
			}
		})
	}
	all.Wait()
	if slow, _ := r.List(200); len(slow) != 4*maxSlow {
		t.Errorf("%d slow ones of 4 minutes", len(slow))
	}
}
