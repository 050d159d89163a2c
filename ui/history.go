package ui

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"aliquot.example/ui/watch"
)

const (
	// maxHistory is the longest period that a browser may request.
	maxHistory = 7 * 24 * time.Hour
	// historyTimeout is the timeout of one read of Prometheus, including the wait for its turn.
	// maxHistoryReads limits simultaneous reads.
	historyTimeout  = 20 * time.Second
	maxHistoryReads = 8
)

// Prometheus returns a reader of the Prometheus at an address.
func Prometheus(address string) (*watch.History, error) { return watch.NewHistory(address) }

// serveHistory responds with the series of a service from Prometheus.
func (s *Server) serveHistory(w http.ResponseWriter, r *http.Request) {
	if s.o.History == nil {
		answer(w, http.StatusNotFound, problem{"no Prometheus is configured: start aliquot ui with -prometheus"})
		return
	}
	span, err := strconv.ParseInt(r.FormValue("seconds"), 10, 64)
	if err != nil || span < 60 || span > int64(maxHistory.Seconds()) || r.FormValue("service") == "" {
		answer(w, http.StatusBadRequest, problem{"want a service, and seconds from 60 to 604800"})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), historyTimeout)
	defer cancel()
	select {
	case s.historyReads <- struct{}{}:
		defer func() { <-s.historyReads }()
	case <-ctx.Done():
		answer(w, http.StatusServiceUnavailable, problem{"too many browsers wait for Prometheus: try again"})
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
