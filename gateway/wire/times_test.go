package wire

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

func TestARequestCanBeCancelled(t *testing.T) {
	cause := errors.New("the client left")
	for _, when := range []string{"before the header", "in the body", "while the body is sent"} {
		reached := make(chan struct{})
		r := listen(t, func(_ int, c net.Conn, in *bufio.Reader) {
			http.ReadRequest(in)
			if when == "in the body" {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndo")
			}
			close(reached)
			io.Copy(io.Discard, in) // until the client closes
		})
		tr := client(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		q := r.request(ctx, http.MethodPost, nil)
		if when == "while the body is sent" {
			pr, pw := io.Pipe()
			defer pw.Close()
			q.Body, q.ContentLength = pr, -1
		}
		go func() {
			<-reached
			cancel(cause)
		}()
		if _, _, err := ask(tr, q); !errors.Is(err, cause) {
			t.Errorf("%s: %v", when, err)
		}
		if len(tr.idle[r.address]) != 0 {
			t.Errorf("%s: the connection is kept", when)
		}
	}
}

func TestTheHeaderHasATime(t *testing.T) {
	r := listen(t, func(_ int, c net.Conn, in *bufio.Reader) {
		for {
			q, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			io.Copy(io.Discard, q.Body)
			if q.Method == http.MethodGet {
				io.WriteString(c, ok)
			}
		}
	})
	tr := client(t)
	if _, _, err := ask(tr, r.request(t.Context(), http.MethodGet, nil)); err != nil {
		t.Fatal(err)
	}
	tr.HeaderTimeout = 20 * time.Millisecond
	for _, q := range []*http.Request{r.post(t.Context(), "question"), r.request(t.Context(), http.MethodPost, io.MultiReader(strings.NewReader("question")))} {
		if _, _, err := ask(tr, q); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v", err)
		}
	}
}

// HeaderTimeout does not apply to the body.
func TestABodyMayTakeLongerThanTheHeader(t *testing.T) {
	rest := make(chan struct{})
	r := listen(t, func(_ int, c net.Conn, in *bufio.Reader) {
		http.ReadRequest(in)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndo")
		select {
		case <-rest:
			io.WriteString(c, "ne")
		case <-t.Context().Done():
		}
	})
	tr := client(t)
	for tr.HeaderTimeout = 50 * time.Millisecond; ; tr.HeaderTimeout *= 2 { // on a busy machine
		res, err := tr.RoundTrip(r.request(t.Context(), http.MethodGet, nil))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(2*tr.HeaderTimeout, func() { close(rest) })
		if body, err := io.ReadAll(res.Body); err != nil || string(body) != "done" {
			t.Errorf("%q, %v", body, err)
		}
		return
	}
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	ended := make(chan struct{})
	r := listen(t, func(_ int, c net.Conn, in *bufio.Reader) {
		answers(ok)(0, c, in)
		close(ended)
	})
	tr := client(t)
	tr.IdleTimeout = 10 * time.Millisecond
	if _, _, err := ask(tr, r.request(t.Context(), http.MethodGet, nil)); err != nil {
		t.Fatal(err)
	}
	<-ended
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if len(tr.idle) != 0 {
		t.Errorf("%v are kept", tr.idle)
	}
}

// Events of a stream are returned when they arrive, and several at once if several have arrived.
