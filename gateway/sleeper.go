package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"aliquot.example/internal/api"
	"aliquot.example/internal/dispatch"
)

// sleeper is what is known of one replica's sleep.
type sleeper struct {
	id, address string
	state       sleepState
	busy        bool      // its engine is being asked or ordered something
	orders      int       // how many there were
	asked       time.Time // whether it sleeps
	idle        time.Time // since when a draining one has nothing to do
	woken       time.Time
	until       time.Time // when one that is away is tried again
	failures    int       // to wake it, in a row
	unable      bool      // its engine has no sleep mode
	unsound     bool      // an order did not come to its end: it must be woken before it gets requests
}

type sleepState int

const (
	unknown sleepState = iota // not asked yet
	awake
	draining      // gets nothing more, and sleeps when it has finished what it has
	fallingAsleep // is being put to sleep
	sleeping      // sleeps
	waking
	away // could not be woken, or asked while it slept
)

// sleep is what the queue is told of a state.
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

// sleepNames are the states as the admin listener names them.
var sleepNames = map[dispatch.Sleep]string{dispatch.Waking: "waking", dispatch.Asleep: "asleep",
	dispatch.Draining: "drowsy", dispatch.Away: "away"}

// maySleep reports whether an awake replica may be put to sleep.
func (p *sleeper) maySleep(now time.Time) bool {
	return p.state == awake && !p.unable && !p.busy && now.Sub(p.woken) >= stays
}

// leave has a replica left alone for a while, each time for longer.
func (p *sleeper) leave(now time.Time) {
	p.state = away
	p.until = now.Add(min(firstAway<<min(p.failures, 10), longestAway))
	p.failures++
}

// serveAwake is told how many replicas are enough.
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
	v.sleepers.setEnough(a.Class, a.Replicas, time.Now().Add(holds))
	w.WriteHeader(http.StatusNoContent)
}
