package front

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// listening serves a handler on a TCP listener until the test ends.
func listening(t *testing.T, h http.HandlerFunc) (*Server, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Handler: h, Other: &http.Server{Handler: h, ErrorLog: quiet}, Base: context.Background(), MaxHeaderBytes: 8 << 10, ErrorLog: quiet}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return s, l.Addr().String()
}

func dial(t *testing.T, address, text string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	io.WriteString(c, text)
	return c
}

// The server notices that the client left although nothing reads from the connection and earlier
// bytes are still unread.
func TestAClientThatLeavesIsNoticedBehindWhatItSent(t *testing.T) {
	for name, text := range map[string]string{
		"a request": plain[0], "one after it": plain[0] + plain[0], "a body that nobody reads": plain[2],
		"a body that does not end": "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc",
	} {
		for _, half := range []bool{false, true} {
			began, left := make(chan struct{}, 2), make(chan struct{}, 2)
			_, address := listening(t, func(w http.ResponseWriter, r *http.Request) {
				began <- struct{}{}
				<-r.Context().Done()
				left <- struct{}{}
			})
			c := dial(t, address, text)
			<-began
			if half {
				c.(*net.TCPConn).CloseWrite()
			} else {
				c.Close()
			}
			select {
			case <-left:
			case <-time.After(time.Minute):
				t.Fatalf("%s, half-closed %t: not noticed", name, half)
			}
		}
	}
}

func TestShutdownWaitsForWhatIsUnderWay(t *testing.T) {
	began, end := make(chan struct{}), make(chan struct{})
	s, address := listening(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(began)
			<-end
		}
		io.WriteString(w, "done")
	})
	resting := dial(t, address, plain[0])
	in := bufio.NewReader(resting)
	if res, err := http.ReadResponse(in, nil); err != nil || res.Close {
		t.Fatal(res, err)
	} else if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Fatal(err)
	}
	slow := dial(t, address, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	<-began
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(t.Context()) }()
	if _, err := in.ReadByte(); err == nil {
		t.Error("an idle connection gets something")
	}
	select {
	case err := <-down:
		t.Fatalf("it ends with %v while a request is served", err)
	default:
	}
	close(end)
	res, err := http.ReadResponse(bufio.NewReader(slow), nil)
	if err != nil || !res.Close {
		t.Fatalf("%+v, %v", res, err)
	}
	if body, err := io.ReadAll(res.Body); string(body) != "done" || err != nil {
		t.Errorf("%q, %v", body, err)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
}

func TestAPanicEndsItsConnectionOnly(t *testing.T) {
	_, address := listening(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/panic" {
			panic("a fault")
		}
		io.WriteString(w, "done")
	})
	if got, err := io.ReadAll(dial(t, address, "GET /panic HTTP/1.1\r\nHost: x\r\n\r\n")); len(got) > 0 || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if res, err := http.ReadResponse(bufio.NewReader(dial(t, address, plain[0])), nil); err != nil || res.StatusCode != 200 {
		t.Errorf("%v, %v", res, err)
	}
}

// The client gets its answer although it still sends a body that the handler does not read.
func TestAnUnreadBodyDoesNotTakeTheAnswerAway(t *testing.T) {
	_, address := listening(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusRequestEntityTooLarge) })
	c := dial(t, address, fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", 200<<10))
	c.Write(make([]byte, 100<<10))
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || res.StatusCode != http.StatusRequestEntityTooLarge || !res.Close {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestClientsHaveATimeForTheHeadAndBetweenRequests(t *testing.T) {
	const head, idle = 10 * time.Second, time.Minute
	for name, d := range map[string]struct {
		first string
		then  string
		lasts time.Duration
	}{
		"nothing":               {"", "", head},
		"half a head":           {"GET / HT", "", head},
		"a head in drops":       {"GET / HT", "TP/1.1\r\n", head},
		"one request":           {plain[0], "", idle},
		"half of the next head": {plain[0], "GET", time.Second + head},
	} {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			s := &Server{Base: t.Context(), HeaderTimeout: head, IdleTimeout: idle, MaxHeaderBytes: 8 << 10}
			s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {})
			go io.Copy(io.Discard, client)
			var sent sync.WaitGroup
			sent.Go(func() {
				if d.first != "" {
					io.WriteString(client, d.first)
				}
				time.Sleep(time.Second)
				if d.then != "" {
					io.WriteString(client, d.then)
				}
			})
			began := time.Now()
			c := s.newConn(server)
			if over := c.serve(); over || time.Since(began) != d.lasts {
				t.Errorf("%s: handed over %t after %v, want an end after %v", name, over, time.Since(began), d.lasts)
			}
			c.left()
			client.Close()
			server.Close()
			sent.Wait()
		})
	}
}
