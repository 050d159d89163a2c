package gateway_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// dial opens a connection to the gateway and sends text.
func (r *running) dial(t *testing.T, text string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(c, text)
	return c
}

// net/http looks for a client that leaves only when the body was read to its end.
func TestAClientThatLeavesWithItsBodySentLeavesTheQueue(t *testing.T) {
	a := newHolding(t)
	for _, head := range []string{
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n" + strings.Repeat("x", 20000),
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 30000\r\n\r\n{\"model\":\"m\",\"prompt\":\"" + strings.Repeat("x", 30000-26) + "\"} ",
	} {
		g := start(t, service("m", replicaBlock(a.Server, "", 1), "route {\n models = [\"m\"]\n}", "route {}"))
		statuses := make(chan int, 1)
		seen := a.total.Load() + 1
		background(t.Context(), g, 1, statuses)
		eventually(t, "one is served", func() bool { return a.active.Load() == 1 })
		c := g.dial(t, head)
		eventually(t, "one waits", func() bool { return g.state(t, "m").Queued == 1 })
		c.Close()
		eventually(t, "it has left the queue", func() bool { return g.state(t, "m").Queued == 0 })
		a.release <- struct{}{}
		<-statuses
		eventually(t, "counted as left_waiting", func() bool {
			return g.metric(t, `aliquot_gateway_requests_total{code="4xx",outcome="left_waiting",service="m"}`) == "1"
		})
		if got := a.total.Load(); got != seen {
			t.Errorf("the replica saw %d requests, want %d", got, seen)
		}
	}
}

func TestSlowUploadsHoldNoSlots(t *testing.T) {
	var seen atomic.Int64
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		io.Copy(w, r.Body)
	})
	g := start(t, service("m", replicaBlock(replica, "", 4)))
	var slow []net.Conn
	for i := range 8 {
		length := "Content-Length: 10"
		if i%2 == 0 {
			length = "Transfer-Encoding: chunked"
		}
		slow = append(slow, g.dial(t, "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"+length+"\r\n\r\n"))
		io.WriteString(slow[i], map[bool]string{true: "3\r\nabc\r\n", false: "abc"}[i%2 == 0])
	}
	r, _ := http.NewRequest(http.MethodPost, g.url, strings.NewReader("quick"))
	if status, body, _ := do(t, r); status != 200 || body != "quick" || seen.Load() != 1 {
		t.Errorf("beside slow uploads: %d %q; the replica saw %d requests", status, body, seen.Load())
	}
	for i, c := range slow {
		io.WriteString(c, map[bool]string{true: "7\r\ndefghij\r\n0\r\n\r\n", false: "defghij"}[i%2 == 0])
		if text, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(text), "HTTP/1.1 200") || !strings.Contains(string(text), "abcdefghij") {
			t.Errorf("upload %d: %q, %v", i, text, err)
		}
	}
}

// A client that leaves in the middle of its body is no reason to blame anybody.
func TestAClientThatLeavesWhileItSends(t *testing.T) {
	a := newHolding(t)
	g := start(t, service("m", replicaBlock(a.Server, "", 1)))
	g.dial(t, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc").Close()
	eventually(t, "counted as left_waiting", func() bool {
		return g.metric(t, `aliquot_gateway_requests_total{code="4xx",outcome="left_waiting",service="m"}`) == "1"
	})
	if a.total.Load() != 0 {
		t.Error("the replica was asked")
	}
}

func TestBodiesBeyondTheMemoryGoToFilesOrAreRefused(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Write(body)
	})
	text := strings.Repeat("0123456789abcdef", 20000)
	for overflow, want := range map[string]int{"file": 200, "refuse": 503} {
		g := start(t, service("m", replicaBlock(replica, "", 1))+fmt.Sprintf("listen {\n address = \"127.0.0.1:0\"\n body_memory = \"100KiB\"\n body_overflow = %q\n}\n", overflow))
		r, _ := http.NewRequest(http.MethodPost, g.url, strings.NewReader(text))
		status, body, header := do(t, r)
		if status != want || (want == 200 && body != text) || (want == 503 && (header.Get("Retry-After") == "" || header.Get("X-Aliquot-Outcome") != "bodies_full")) {
			t.Errorf("%s: %d, %d bytes, %v", overflow, status, len(body), header)
		}
	}
}

// A POST that did not begin to have an effect is repeated, whatever its length.
func TestALongPostIsTriedElsewhere(t *testing.T) {
	busy := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(503)
	})
	fine := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Write(body)
	})
	g := start(t, service("m", replicaBlock(busy, "h100", 1), replicaBlock(fine, "t4", 1)))
	text := strings.Repeat("0123456789abcdef", 200000)
	r, _ := http.NewRequest(http.MethodPost, g.url, io.MultiReader(strings.NewReader(text)))
	if status, body, _ := do(t, r); status != 200 || body != text {
		t.Errorf("%d, %d bytes of %d", status, len(body), len(text))
	}
}

func TestTheGatewayItselfContinues(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Header.Get("Expect"))
		io.Copy(w, r.Body)
	})
	g := start(t, service("m", replicaBlock(replica, "", 1)))
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Minute}}
	r, _ := http.NewRequest(http.MethodPost, g.url, strings.NewReader("hello"))
	r.Header.Set("Expect", "100-continue")
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); string(body) != "hello" {
		t.Errorf("%d %q", res.StatusCode, body)
	}
}

func TestTheModelIsFoundBehindAnImage(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	})
	g := start(t, service("m", replicaBlock(replica, "", 1), "route {\n models = [\"m\"]\n}"))
	for _, size := range []int{1100 << 10, 20 << 20} {
		text := `{"model":"other","messages":[{"image":"` + strings.Repeat("A", size) + `"}],"model":"m"}`
		r, _ := http.NewRequest(http.MethodPost, g.url, strings.NewReader(text))
		if status, body, _ := do(t, r); status != 200 || body != fmt.Sprint(len(text)) {
			t.Errorf("%d bytes before the model: %d %q", size, status, body)
		}
	}
}
