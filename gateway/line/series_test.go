package line

import (
	"testing"
	"time"
)

// A clock that is set back by an hour must not stop the series for an hour.
func TestTheSeriesGoesOnWhenTheClockIsSetBack(t *testing.T) {
	for _, back := range []time.Duration{2 * time.Second, 10 * time.Minute, 3 * time.Hour} {
		var l Line
		now := time.Unix(1_000_000, 0)
		l.series.start(now)
		l.series.queued(now, amount{requests: 1})
		l.series.advance(now.Add(10 * time.Second))
		set := now.Add(10*time.Second - back)
		l.series.queued(set, amount{requests: 1})
		points := l.Concurrency(set.Add(5*time.Second), 3*time.Second)
		if len(points) != 3 {
			t.Fatalf("set back by %v: %d points, want 3", back, len(points))
		}
		for i, p := range points {
			if want := set.Unix() + 2 + int64(i); p.Second != want || p.Queued != 2 {
				t.Errorf("set back by %v: second %d has %v waiting, want second %d with 2", back, p.Second, p.Queued, want)
			}
		}
	}
}
