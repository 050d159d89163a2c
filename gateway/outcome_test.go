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
