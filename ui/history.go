package ui

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"aliquot.example/ui/watch"
)

const (
	// longestHistory is the longest span that a browser may ask for.
	longestHistory = 7 * 24 * time.Hour
	// historyWithin bounds one look at Prometheus, and how long it waits for its turn;
	// mostLooks how many there are at once.
	historyWithin = 20 * time.Second
	mostLooks     = 8
)

// Prometheus returns the history that a Prometheus at an address has.
func Prometheus(address string) (*watch.History, error) { return watch.NewHistory(address) }

// serveHistory answers what Prometheus has of a service, as a series.
func (s *Server) serveHistory(w http.ResponseWriter, r *http.Request) {
	if s.o.History == nil {
		answer(w, http.StatusNotFound, problem{"no Prometheus is configured: give -prometheus"})
		return
	}
	span, err := strconv.ParseInt(r.FormValue("seconds"), 10, 64)
	if err != nil || span < 60 || span > int64(longestHistory.Seconds()) || r.FormValue("service") == "" {
		answer(w, http.StatusBadRequest, problem{"want a service, and seconds from 60 to a week"})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), historyWithin)
	defer cancel()
	select {
	case s.looks <- struct{}{}:
		defer func() { <-s.looks }()
	case <-ctx.Done():
		answer(w, http.StatusServiceUnavailable, problem{"Prometheus does not answer, and many browsers ask it"})
		return
	}
	series, err := s.o.History.Of(ctx, r.FormValue("service"), span, time.Now())
	if err != nil {
		s.o.Log.Warn("Prometheus does not answer", "error", err)
		answer(w, http.StatusBadGateway, problem{"Prometheus does not answer"})
		return
	}
	answer(w, http.StatusOK, series)
}
