package gateway

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// A gateway that drains has its clients leave, those that it refuses too.
func TestARefusalKeepsTheWordOnTheConnection(t *testing.T) {
	w := httptest.NewRecorder()
	w.Header().Set("Connection", "close")
	w.Header().Set("Content-Length", "7")
	refuse(w, httptest.NewRequest(http.MethodGet, "/", nil), queueFull, "", time.Second)
	if h := w.Result().Header; h.Get("Connection") != "close" || h.Get("Content-Length") != "" {
		t.Errorf("the header of the refusal: %v", h)
	}
}

func TestLimitsOfTenantsInGRPC(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	for _, o := range []outcome{tenantFull, tokenLimit} {
		if got := codeGRPC(o, r); got != 8 {
			t.Errorf("%v is %d, want 8, RESOURCE_EXHAUSTED", o, got)
		}
	}
}

// A deadline is one in gRPC too, wherever it passed.
func TestDeadlinesInGRPC(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	if got := codeGRPC(expired, r); got != 14 {
		t.Errorf("a wait without a deadline is %d, want 14, UNAVAILABLE", got)
	}
	r.Header.Set("Grpc-Timeout", "1S")
	for _, o := range []outcome{expired, tooLate, overdue, timedOut} {
		if got := codeGRPC(o, r); got != 4 {
			t.Errorf("%v is %d, want 4, DEADLINE_EXCEEDED", o, got)
		}
	}
}
