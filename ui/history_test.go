package ui

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// When the limit of browsers already waits for a Prometheus that hangs, the next one gets an
// error after its time-out, and Prometheus gets no further request.
func TestLooksAtPrometheusAreBounded(t *testing.T) {
	asked := false
	prometheus := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer prometheus.Close()
	history, err := Prometheus(prometheus.URL)
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{History: history})
	for range maxHistoryReads {
		s.historyReads <- struct{}{}
	}
	over, stop := context.WithCancel(t.Context())
	stop()
	answer := httptest.NewRecorder()
	s.serveHistory(answer, httptest.NewRequestWithContext(over, http.MethodGet, "/v1/history?service=chat&seconds=600", nil))
	if answer.Code != http.StatusServiceUnavailable || !strings.Contains(answer.Body.String(), "too many browsers wait for Prometheus") || asked {
		t.Errorf("%d %s, asked: %v", answer.Code, answer.Body, asked)
	}
}
