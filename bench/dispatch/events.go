package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The streams of the measurement resemble those of a language model: each event is one token.
const (
	streams         = 64
	eventsPerStream = 200
	// eventInterval is the time between two events of a stream. All streams step together, as in an
	// engine that batches.
	eventInterval = 10 * time.Millisecond
)

// token is an event of OpenAI's chat API. The mark occurs nowhere else in a response.
const (
	mark  = '~'
	token = `data: {"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1764000000,` +
		`"model":"bench","choices":[{"index":0,` +
		`"delta":{"content":" ~token"},"logprobs":null,"finish_reason":null}]}` + "\n\n"
	asked = `{"model":"bench","messages":[{"role":"user","content":"count to two hundred"}],` +
		`"stream":true,"max_tokens":256}`
)

// everyHeader asks the backend to pace the events.
const everyHeader = "X-Every"

// metronome makes all streams step together.
type metronome struct {
	mu   sync.Mutex
	next chan struct{} // closed at the next tick
}

func newMetronome(every time.Duration) *metronome {
	m := &metronome{next: make(chan struct{})}
	go func() {
		for range time.Tick(every) {
			m.mu.Lock()
			now := m.next
			m.next = make(chan struct{})
			m.mu.Unlock()
			close(now)
		}
	}()
	return m
}

func (m *metronome) wait() {
	m.mu.Lock()
	next := m.next
	m.mu.Unlock()
	<-next
}

// backend serves the overhead measurement: "done" for GET, a stream for POST.
type backend struct{ steps *metronome }

func (b backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		io.WriteString(w, "done")
		return
	}
	io.Copy(io.Discard, r.Body)
	// This bypasses net/http and sends each event in one write, so that the backend uses little
	// CPU.
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err) // the figures would be wrong
	}
	defer c.Close()
	io.WriteString(c,
		"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
	event := fmt.Appendf(nil, "%x\r\n%s\r\n", len(token), token)
	for range eventsPerStream {
		if r.Header.Get(everyHeader) != "" {
			b.steps.wait()
		}
		if _, err := c.Write(event); err != nil {
			return
		}
	}
	io.WriteString(c, "0\r\n\r\n")
}

// errBroken means that a stream ended early. Proxies on net/http's server break some streams on a
// busy machine: the exchange fails if the response arrives before the proxy has seen the end of the
// request's body (golang/go#15527).
var errBroken = errors.New("stream ended early")

// streamLoop keeps n streams running for a time and restarts each when it ends. It returns how many
// events arrived and how many streams broke.
func streamLoop(url string, n int, paced bool, length time.Duration) (came, broken int64, err error) {
	host := strings.TrimPrefix(url, "http://")
	var events, lost atomic.Int64
	errs := make([]error, n)
	var wait sync.WaitGroup
	end := time.Now().Add(length)
	for i := range n {
		wait.Go(func() {
			for errs[i] == nil && time.Now().Before(end) {
				var got int
				got, errs[i] = oneStream(host, paced)
				events.Add(int64(got))
				if errors.Is(errs[i], errBroken) {
					lost.Add(1)
					errs[i] = nil
				}
			}
		})
	}
	wait.Wait()
	for _, err := range errs {
		if err != nil {
			return 0, 0, err
		}
	}
	return events.Load(), lost.Load(), nil
}

// oneStream requests a stream and counts its events.
func oneStream(host string, paced bool) (int, error) {
	c, err := net.Dial("tcp", host)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	pace := ""
	if paced {
		pace = everyHeader + ": 1\r\n"
	}
	if _, err := fmt.Fprintf(c,
		"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\nContent-Type: "+
			"application/json\r\n%sContent-Length: %d\r\n\r\n%s", pace, len(asked), asked); err != nil {
		return 0, err
	}
	in := bufio.NewReader(c)
	if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 200") {
		return 0, fmt.Errorf("answer begins %q, %v", line, err)
	}
	events := 0
	buf := make([]byte, 32<<10)
	var last [5]byte
	for {
		n, err := in.Read(buf)
		events += bytes.Count(buf[:n], []byte{mark})
		if n >= len(last) {
			copy(last[:], buf[n-len(last):n])
		} else if n > 0 {
			copy(last[:], last[n:])
			copy(last[len(last)-n:], buf[:n])
		}
		if string(last[:]) == "0\r\n\r\n" && events == eventsPerStream {
			return events, nil
		}
		if err != nil {
			return events, fmt.Errorf("%w: after %d events: %v", errBroken, events, err)
		}
	}
}
