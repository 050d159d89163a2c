package gateway

import (
	"net/http"
	"sync"
	"time"

	"aliquot.example/internal/api"
	"aliquot.example/internal/quantile"
)

// latencies count the durations of requests by the second in which they ended. Past seconds are
// stored encoded, which takes a fifth of the memory.
type latencies struct {
	mu   sync.Mutex
	now  latencySecond
	ring [keptSeconds]api.Latency
}

type latencySecond struct {
	second            int64
	served            map[string]int // by class
	total, ttft, tpot quantile.Sketch
}

func (s *latencySecond) encoded() api.Latency {
	return api.Latency{Time: s.second, Served: s.served, Total: s.total.Encode(), TTFT: s.ttft.Encode(),
		TPOT: s.tpot.Encode()}
}

// stepped is the number of seconds by which the clock must go back to count as set back.
const stepped = 5

// turn makes second the present one, and returns false if it is already over. If the clock was set
// back, the seconds after it are forgotten.
func (l *latencies) turn(second int64) bool {
	if second < l.now.second-stepped {
		for i := range l.ring {
			if l.ring[i].Time > second {
				l.ring[i] = api.Latency{}
			}
		}
		l.now = latencySecond{second: second, served: map[string]int{}}
	}
	if second > l.now.second {
		l.ring[l.now.second%keptSeconds] = l.now.encoded()
		l.now = latencySecond{second: second, served: map[string]int{}}
	}
	return second == l.now.second
}

// add counts a request served by a class. ttft and tpot are the times to the first token and between
// tokens of a language model, negative if unknown.
func (l *latencies) add(now time.Time, class string, took, ttft, tpot time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.turn(now.Unix()) {
		return // its second has just ended
	}
	l.now.served[class]++
	l.now.total.Add(took.Seconds())
	if ttft >= 0 {
		l.now.ttft.Add(ttft.Seconds())
	}
	if tpot >= 0 {
		l.now.tpot.Add(tpot.Seconds())
	}
}

// last returns the past seconds in which a request ended, the oldest first.
func (l *latencies) last(now time.Time, window time.Duration) []api.Latency {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turn(now.Unix())
	out := []api.Latency{}
	until := now.Unix()
	for second := max(1, until-min(int64(window/time.Second), keptSeconds-1)); second < until; second++ {
		if p := &l.ring[second%keptSeconds]; p.Time == second && p.Total != nil {
			out = append(out, *p)
		}
	}
	return out
}

// serveLatency responds with the latencies of one service.
func (s *Server) serveLatency(w http.ResponseWriter, r *http.Request) {
	v := s.known(w, r.PathValue("service"))
	if v == nil {
		return
	}
	window, ok := windowOf(w, r)
	if !ok {
		return
	}
	now := time.Now()
	writeJSON(w, api.Latencies{Service: v.name, Now: now, Accuracy: quantile.Accuracy,
		Series: v.remembered.latencies.last(now, window)})
}

// windowOf parses the window of a request. It answers 400 and returns false if the window is invalid.
func windowOf(w http.ResponseWriter, r *http.Request) (window time.Duration, ok bool) {
	text := r.FormValue("window")
	if text == "" {
		return defaultWindow, true
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second {
		http.Error(w, `window: want a duration of at least "1s"`, http.StatusBadRequest)
		return 0, false
	}
	return d, true
}
