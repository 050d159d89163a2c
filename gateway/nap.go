package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"aliquot.example/internal/api"
	"aliquot.example/internal/dispatch"
)

// nap is what is known of one replica's sleep.
type nap struct {
	id, address string
	state       napState
	busy        bool      // its engine is being asked or ordered something
	orders      int       // how many there were
	asked       time.Time // whether it sleeps
	idle        time.Time // since when a drowsy one has nothing to do
	woken       time.Time
	until       time.Time // when one that is away is tried again
	failures    int       // to wake it, in a row
	unable      bool      // its engine has no sleep mode
	unsound     bool      // an order did not come to its end: it must be woken before it gets requests
}

type napState int

const (
	unknown napState = iota // not asked yet
	awake
	drowsy   // gets nothing more, and sleeps when it has finished what it has
	falling  // is being put to sleep
	sleeping // sleeps
	waking
	away // could not be woken, or asked while it slept
)

// sleep is what the queue is told of a state.
func (s napState) sleep() dispatch.Sleep {
	switch s {
	case awake:
		return dispatch.Awake
	case drowsy:
		return dispatch.Drowsy
	case sleeping:
		return dispatch.Asleep
	case waking:
		return dispatch.Waking
	}
	return dispatch.Away
}

// sleepNames are the states as the admin listener names them.
var sleepNames = map[dispatch.Sleep]string{dispatch.Waking: "waking", dispatch.Asleep: "asleep",
	dispatch.Drowsy: "drowsy", dispatch.Away: "away"}

// leave has a replica left alone for a while, each time for longer.
func (p *nap) leave(now time.Time) {
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
	if v.nights == nil {
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
	v.nights.suffice(a.Class, a.Replicas, time.Now().Add(holds))
	w.WriteHeader(http.StatusNoContent)
}
