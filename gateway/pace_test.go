package gateway

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// deadlines is an answer's writer that notes the deadline of reading.
type deadlines struct {
	*httptest.ResponseRecorder
	read time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.read = t
	return nil
}

// A read that begins as the request ends must not wait for the client once more.
func TestAReadAfterTheAbortSetsNoDeadline(t *testing.T) {
	for _, each := range []bool{false, true} {
		d := &deadlines{ResponseRecorder: httptest.NewRecorder()}
		b := &slowBody{ReadCloser: io.NopCloser(strings.NewReader("rest")), control: http.NewResponseController(d), limit: time.Minute, each: each}
		b.abort()
		io.ReadAll(b)
		if !d.read.Equal(time.Unix(1, 0)) {
			t.Errorf("each %v: the deadline is %v after the abort", each, d.read)
		}
	}
}
