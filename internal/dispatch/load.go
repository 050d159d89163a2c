package dispatch

import "time"

// load is the time-weighted mean of the busy fraction of the fleet's speed. It equals the offered
// load as long as the queue is stable.
type load struct {
	mean  float64
	speed float64 // busy speed now, in cost per second
	at    time.Time
}

// loadSpan is the number of requests at full throughput over which load is averaged.
const loadSpan = 256

// change adds delta to the busy speed. total is the speed of the whole fleet.
func (l *load) change(delta, total float64, now time.Time) {
	if dt := now.Sub(l.at).Seconds(); dt > 0 && total > 0 {
		keep := 1 / (1 + dt*total/loadSpan) // exp(-x) for the small x that matter
		l.mean = l.mean*keep + min(1, l.speed/total)*(1-keep)
	}
	l.at = now
	l.speed = max(0, l.speed+delta)
}
