package ui

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// While as many browsers as may wait for a Prometheus that hangs, another one is told so
// when its time is up, and Prometheus is not asked again.
func TestLooksAtPrometheusAreBounded(t *testing.T) {
	asked := false
	prometheus := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer prometheus.Close()
	history, err := Prometheus(prometheus.URL)
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{History: history})
	for range mostLooks {
		s.looks <- struct{}{}
	}
	over, stop := context.WithCancel(t.Context())
	stop()
	answer := httptest.NewRecorder()
	s.serveHistory(answer, httptest.NewRequestWithContext(over, http.MethodGet, "/v1/history?service=chat&seconds=600", nil))
	if answer.Code != http.StatusServiceUnavailable || !strings.Contains(answer.Body.String(), "Prometheus does not answer") || asked {
		t.Errorf("%d %s, asked: %v", answer.Code, answer.Body, asked)
	}
}
