package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"aliquot.example/internal/api"
	"aliquot.example/internal/dispatch"
)

// sleeper is the sleep state of one replica.
type sleeper struct {
	id, address string
	state       sleepState
	busy        bool      // a request to its engine is in flight
	orders      int       // number of requests to its engine so far
	asked       time.Time // when it was last asked whether it sleeps
	idle        time.Time // since when it has been idle while draining
	woken       time.Time
	until       time.Time // when to try again while away
	failures    int       // consecutive failures to wake it
	noSleepMode bool      // its engine has no sleep mode
	failed      bool      // an order failed: it must be woken before it gets requests
}

type sleepState int

const (
	unknown sleepState = iota // not asked yet
	awake
	draining // gets no new requests, and sleeps when it has finished the current ones
	fallingAsleep
	sleeping
	waking
	away // could not be woken, or did not answer while asleep
)

// sleep returns the state that the queue sees.
func (s sleepState) sleep() dispatch.Sleep {
	switch s {
	case awake:
		return dispatch.Awake
	case draining:
		return dispatch.Draining
	case sleeping:
		return dispatch.Asleep
	case waking:
		return dispatch.Waking
	}
	return dispatch.Away
}

// sleepNames are the names of the states in the admin API.
var sleepNames = map[dispatch.Sleep]string{dispatch.Waking: "waking", dispatch.Asleep: "asleep",
	dispatch.Draining: "drowsy", dispatch.Away: "away"}

// maySleep reports whether an awake replica may be put to sleep.
func (p *sleeper) maySleep(now time.Time) bool {
	return p.state == awake && !p.noSleepMode && !p.busy && now.Sub(p.woken) >= minAwake
}

// backOff leaves a replica alone for a while, twice as long after each failure, up to maxSleepBackoff.
func (p *sleeper) backOff(now time.Time) {
	p.state = away
	p.until = now.Add(min(minSleepBackoff<<min(p.failures, 10), maxSleepBackoff))
	p.failures++
}

// serveAwake sets how many replicas of a class are enough.
func (s *Server) serveAwake(w http.ResponseWriter, r *http.Request) {
	v := s.known(w, r.PathValue("service"))
	if v == nil {
		return
	}
	if v.sleepers == nil {
		http.Error(w, fmt.Sprintf("the replicas of service %q do not sleep: its configuration has no sleep block",
			v.name), http.StatusConflict)
		return
	}
	var a api.Awake
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&a); err != nil {
		http.Error(w, fmt.Sprintf(`want a body such as {"class": "h100", "replicas": 1}: %v`, err),
			http.StatusBadRequest)
		return
	}
	holds := time.Minute
	if a.For != "" {
		d, err := time.ParseDuration(a.For)
		if err != nil || d <= 0 {
			http.Error(w, fmt.Sprintf(`for is %q: want a duration such as "10m"`, a.For), http.StatusBadRequest)
			return
		}
		holds = d
	}
	if a.Replicas < 0 {
		http.Error(w, "replicas must not be negative", http.StatusBadRequest)
		return
	}
	v.sleepers.setAwakeLimit(a.Class, a.Replicas, time.Now().Add(holds))
	w.WriteHeader(http.StatusNoContent)
}
