package wire

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// replica is a server whose answers the test defines.
type replica struct {
	address string
	opened  atomic.Int64 // connections
}

// listen calls f for each connection, with the connection's number.
func listen(t *testing.T, f func(n int, c net.Conn, in *bufio.Reader)) *replica {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{address: l.Addr().String()}
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n := int(r.opened.Add(1))
			wait.Go(func() {
				defer c.Close()
				f(n, c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() { l.Close(); wait.Wait() })
	return r
}

// answers reads each request with its body and sends the answer.
func answers(text string) func(int, net.Conn, *bufio.Reader) {
	return func(_ int, c net.Conn, in *bufio.Reader) {
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			io.Copy(io.Discard, r.Body)
			io.WriteString(c, text)
		}
	}
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone"

func client(t *testing.T) *Transport {
	tr := &Transport{Dial: new(net.Dialer).DialContext, ContinueTimeout: time.Minute, MaxHeaderBytes: 1 << 20}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func (r *replica) request(ctx context.Context, method string, body io.Reader) *http.Request {
	q, err := http.NewRequestWithContext(ctx, method, "http://"+r.address+"/", body)
	if err != nil {
		panic(err)
	}
	return q
}

// ask sends a request and reads its answer.
func ask(tr *Transport, q *http.Request) (*http.Response, string, error) {
	res, err := tr.RoundTrip(q)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res, string(body), err
}

// whole is a complete body.
type whole struct{ *strings.Reader }

func (whole) Whole() bool  { return true }
func (whole) Close() error { return nil }

func (r *replica) post(ctx context.Context, text string) *http.Request {
	q := r.request(ctx, http.MethodPost, strings.NewReader(text))
	q.Body = whole{strings.NewReader(text)}
	q.GetBody = func() (io.ReadCloser, error) { return whole{strings.NewReader(text)}, nil }
	return q
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		text   string
		opened int64
	}{
		"by length":     {ok, 1},
		"in chunks":     {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndone\r\n0\r\n\r\n", 1},
		"said to close": {"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndone", 3},
		"HTTP/1.0":      {"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\ndone", 3},
		"more came":     {ok + ok, 3},
	} {
		r, tr := listen(t, answers(c.text)), client(t)
		for range 3 {
			if _, body, err := ask(tr, r.post(t.Context(), "question")); err != nil || body != "done" {
				t.Fatalf("%s: %q, %v", name, body, err)
			}
		}
		if n := r.opened.Load(); n != c.opened {
			t.Errorf("%s: %d connections, want %d", name, n, c.opened)
		}
	}
}

func TestAnUnreadBodyEndsItsConnection(t *testing.T) {
	r, tr := listen(t, answers(ok)), client(t)
	for range 2 {
		res, err := tr.RoundTrip(r.request(t.Context(), http.MethodGet, nil))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Read(make([]byte, 1))
		res.Body.Close()
		if _, err := res.Body.Read(make([]byte, 1)); err == nil {
			t.Error("a closed body can be read")
		}
	}
	if n := r.opened.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

// A connection that the replica closed while it was idle is detected before anything is sent, so
// that even a POST is sent once and served.
func TestAConnectionThatWasClosedWhileIdle(t *testing.T) {
	closed := make(chan struct{}, 8)
	served := atomic.Int64{}
	r := listen(t, func(_ int, c net.Conn, in *bufio.Reader) {
		q, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		io.Copy(io.Discard, q.Body)
		served.Add(1)
		io.WriteString(c, ok)
		c.Close()
		closed <- struct{}{}
	})
	tr := client(t)
	for i := range 3 {
		if _, body, err := ask(tr, r.post(t.Context(), "question")); err != nil || body != "done" {
			t.Fatalf("request %d: %q, %v", i, body, err)
		}
		<-closed
	}
	if served.Load() != 3 {
		t.Errorf("%d were served", served.Load())
	}
}

// If a reused connection ends after the request was sent, only a request that may reach a replica
// twice is sent again.
func TestWhatIsSentAgain(t *testing.T) {
	for _, c := range []struct {
		method, key string
		again       bool
	}{{"GET", "", true}, {"POST", "", false}, {"POST", "abc", true}, {"PUT", "", false}} {
		var got atomic.Int64
		r := listen(t, func(n int, conn net.Conn, in *bufio.Reader) {
			for i := 0; ; i++ {
				q, err := http.ReadRequest(in)
				if err != nil {
					return
				}
				io.Copy(io.Discard, q.Body)
				got.Add(1)
				if n == 1 && i == 1 {
					return // the second request on the first connection
				}
				io.WriteString(conn, ok)
			}
		})
		tr := client(t)
		send := func() error {
			q := r.request(t.Context(), c.method, nil)
			if c.method != "GET" {
				q = r.post(t.Context(), "question")
				q.Method = c.method
			}
			if c.key != "" {
				q.Header.Set("Idempotency-Key", c.key)
			}
			_, _, err := ask(tr, q)
			return err
		}
		if err := send(); err != nil {
			t.Fatal(err)
		}
		err := send()
		if (err == nil) != c.again || got.Load() != map[bool]int64{true: 3, false: 2}[c.again] {
			t.Errorf("%s %q: %v after %d requests", c.method, c.key, err, got.Load())
		}
	}
}

// The answer of a replica that rejects a body without reading it is returned, whatever part of the
// body the socket took.
func TestAnAnswerBeforeTheBodyIsSent(t *testing.T) {
	for _, size := range []int{10, maxInline, 64 << 20} {
		r := listen(t, func(_ int, c net.Conn, in *bufio.Reader) {
			c.(*net.TCPConn).SetReadBuffer(4096)
			if _, err := http.ReadRequest(in); err != nil {
				return
			}
			io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
			<-t.Context().Done()
		})
		tr := client(t)
		res, body, err := ask(tr, r.post(t.Context(), strings.Repeat("x", size)))
		if err != nil || res.StatusCode != 413 || body != "no" {
			t.Errorf("%d bytes: %v, %q, %v", size, res, body, err)
		}
	}
}

func TestBodiesAreSentAsTheyAre(t *testing.T) {
	sum := make(chan string, 1)
	r := listen(t, func(_ int, c net.Conn, in *bufio.Reader) {
		for {
			q, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			body, err := io.ReadAll(q.Body)
			sum <- fmt.Sprint(len(body), q.ContentLength, q.TransferEncoding, q.Trailer.Get("X-Sum"), err)
			io.WriteString(c, ok)
		}
	})
	tr := client(t)
	for _, size := range []int{1, 4000, 100_000, 3 << 20} {
		text := strings.Repeat("x", size)
		for name, q := range map[string]*http.Request{
			"whole":    r.post(t.Context(), text),
			"streamed": r.request(t.Context(), http.MethodPost, strings.NewReader(text)),
		} {
			if _, _, err := ask(tr, q); err != nil {
				t.Fatal(err)
			}
			if got, want := <-sum, fmt.Sprint(size, size, []string(nil), "", error(nil)); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
		q := r.request(t.Context(), http.MethodPost, io.MultiReader(strings.NewReader(text)))
		q.Trailer = http.Header{"X-Sum": {"7"}}
		if _, _, err := ask(tr, q); err != nil {
			t.Fatal(err)
		}
		if got, want := <-sum, fmt.Sprint(size, -1, []string{"chunked"}, "7", error(nil)); got != want {
			t.Errorf("chunks: %s, want %s", got, want)
		}
	}
}

// A body that is not as long as announced must not be read as another request.
func TestAWrongLengthEndsTheConnection(t *testing.T) {
	for name, length := range map[string]int64{"longer": 4, "shorter": 40} {
		for kind, body := range map[string]io.ReadCloser{"whole": whole{strings.NewReader("question")}, "streamed": io.NopCloser(strings.NewReader("question"))} {
			got := make(chan string, 1)
			r := listen(t, func(_ int, c net.Conn, in *bufio.Reader) {
				all, _ := io.ReadAll(in)
				got <- string(all)
			})
			tr := client(t)
			q := r.request(t.Context(), http.MethodPost, nil)
			q.Body, q.ContentLength = body, length
			if _, _, err := ask(tr, q); !errors.Is(err, ErrRequest) {
				t.Errorf("%s, %s: %v", name, kind, err)
			}
			if text := <-got; strings.Contains(text, "question") {
				if _, after, _ := strings.Cut(text, "\r\n\r\n"); int64(len(after)) > length {
					t.Errorf("%s, %s: the replica got %q", name, kind, text)
				}
			}
		}
	}
}

func TestInformationalAnswers(t *testing.T) {
	r, tr := listen(t, answers("HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"+ok)), client(t)
	var seen []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		seen = append(seen, fmt.Sprint(code, h.Get("Link")))
		return nil
	}})
	if _, body, err := ask(tr, r.request(ctx, http.MethodGet, nil)); err != nil || body != "done" || fmt.Sprint(seen) != "[103a 102]" {
		t.Errorf("%q, %v, %v", body, err, seen)
	}
}

func TestABodyWaitsUntilItIsWanted(t *testing.T) {
	for _, wanted := range []bool{true, false} {
		got := make(chan string, 1)
		r := listen(t, func(_ int, c net.Conn, in *bufio.Reader) {
			q, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			if in.Buffered() > 0 {
				t.Error("the body came at once")
			}
			if !wanted {
				io.WriteString(c, "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
				rest, _ := io.ReadAll(in)
				got <- string(rest)
				return
			}
			io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
			body, _ := io.ReadAll(q.Body)
			got <- string(body)
			io.WriteString(c, ok)
		})
		tr := client(t)
		q := r.post(t.Context(), "question")
		q.Header.Set("Expect", "100-continue")
		res, _, err := ask(tr, q)
		if err != nil || (res.StatusCode == 200) != wanted {
			t.Fatalf("wanted %t: %v, %v", wanted, res, err)
		}
		if text := <-got; (text == "question") != wanted {
			t.Errorf("wanted %t: the replica got %q", wanted, text)
		}
	}
}

func TestEventsAreGivenAsTheyCome(t *testing.T) {
	step := make(chan string)
	r := listen(t, func(_ int, c net.Conn, in *bufio.Reader) {
		http.ReadRequest(in)
		for {
			select {
			case text := <-step:
				io.WriteString(c, text)
			case <-t.Context().Done():
				return
			}
		}
	})
	tr := client(t)
	go func() { step <- "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" }()
	res, err := tr.RoundTrip(r.request(t.Context(), http.MethodGet, nil))
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	for _, s := range []struct{ sent, got string }{
		{"2\r\na\n\r\n", "a\n"}, {"2\r\nb\n\r", "b\n"}, {"\n2\r\nc\n\r\n2\r\nd\n\r\n1", "c\nd\n"}, {"\r\ne\r\n0\r\n", "e"},
	} {
		step <- s.sent
		if n, err := res.Body.Read(buf); err != nil || string(buf[:n]) != s.got {
			t.Fatalf("%q gives %q, %v", s.sent, buf[:n], err)
		}
	}
	step <- "\r\n"
	if n, err := res.Body.Read(buf); n != 0 || err != io.EOF {
		t.Errorf("%q, %v", buf[:n], err)
	}
}

// Each of many concurrent exchanges of all kinds, some cancelled, gets the answer to its own
// request.
func TestManyAtOnce(t *testing.T) {
	r := listen(t, func(_ int, c net.Conn, in *bufio.Reader) {
		for {
			q, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			body, err := io.ReadAll(q.Body)
			if err != nil {
				return
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(body), body)
			io.WriteString(c, "0\r\n\r\n")
		}
	})
	tr := client(t)
	var wait sync.WaitGroup
	for i := range 16 {
		wait.Go(func() {
			for j := range 50 {
				text := strings.Repeat(fmt.Sprintf("%d.%d ", i, j), 1+j*j)
				ctx, cancel := context.WithCancel(t.Context())
				q := r.post(ctx, text)
				if j%3 == 0 {
					q = r.request(ctx, http.MethodPost, io.MultiReader(strings.NewReader(text)))
				}
				if j%7 == 0 {
					go cancel()
				}
				_, body, err := ask(tr, q)
				if err == nil && body != text {
					t.Errorf("an answer of %d bytes for %d", len(body), len(text))
				}
				if err != nil && ctx.Err() == nil {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	wait.Wait()
}
