package gateway_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"aliquot.example/gateway"
)

func TestTheDeadlineActsWhileARequestIsServed(t *testing.T) {
	for name, begin := range map[string]bool{"before the answer": false, "after it has begun": true} {
		left := make(chan struct{})
		replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body) // else the server does not notice that it was left
			if begin {
				io.WriteString(w, "half")
				w.(http.Flusher).Flush()
			}
			<-r.Context().Done()
			close(left)
		})
		g := start(t, service("m", replicaBlock(replica, "", 1)))
		r, _ := http.NewRequest(http.MethodPost, g.url, strings.NewReader("x"))
		r.Header.Set("X-Request-Timeout", "0.2")
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadAll(res.Body)
		res.Body.Close()
		if !begin && (res.StatusCode != 504 || res.Header.Get("X-Aliquot-Outcome") != "overdue") {
			t.Errorf("%s: %d %v", name, res.StatusCode, res.Header)
		}
		if begin && err == nil {
			t.Errorf("%s: the cut answer looks whole", name)
		}
		<-left
		eventually(t, name+": the slot is free", func() bool { return g.state(t, "m").busy() == 0 })
		code := map[bool]string{false: "5xx", true: "2xx"}[begin]
		eventually(t, name+": counted", func() bool {
			return g.metric(t, `aliquot_gateway_requests_total{code="`+code+`",outcome="overdue",service="m"}`) == "1"
		})
		g.stop()
	}
}

// A replica whose server accepts and whose engine hangs never answers: nothing but
// the clients' patience tells.
func TestAHungReplicaIsEjectedWhenItsClientsLeave(t *testing.T) {
	var asked atomic.Int64
	hung := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		<-r.Context().Done()
	})
	fine := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "done") })
	for _, deadline := range []bool{false, true} {
		asked.Store(0)
		g := start(t, service("m", replicaBlock(fine, "h100", 1), replicaBlock(hung, "h100", 1), ejected))
		lost := 0
		for range 40 {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			r, _ := http.NewRequestWithContext(ctx, http.MethodGet, g.url, nil)
			if deadline {
				r.Header.Set("X-Request-Timeout", "0.3")
			} else {
				// A client that gives up, once the replica has it or it was answered.
				time.AfterFunc(300*time.Millisecond, cancel)
			}
			res, err := http.DefaultClient.Do(r)
			if err == nil {
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
			if err != nil || res.StatusCode != 200 {
				lost++
				eventually(t, "the slot is free", func() bool { return g.state(t, "m").busy() == 0 })
			}
			cancel()
		}
		if lost > 8 {
			t.Errorf("by the gateway's deadline %t: %d of 40 requests were lost", deadline, lost)
		}
		ejectedNow := 0
		for _, r := range g.state(t, "m").Replicas {
			if r.Ejected {
				ejectedNow++
			}
		}
		if ejectedNow != 1 {
			t.Errorf("by the gateway's deadline %t: %d replicas are ejected, want the one that hangs", deadline, ejectedNow)
		}
		g.stop()
	}
}

// An engine that hangs while its server answers sends the header of a stream, and
// no token after it.
func TestAReplicaThatHangsAfterItsHeaderIsEjected(t *testing.T) {
	asked := make(chan struct{}, 100)
	hung := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush()
		asked <- struct{}{}
		<-r.Context().Done()
	})
	g := start(t, service("m", "policy = \"tokens\"\nengine {\n metrics = \"off\"\n}\n", replicaBlock(engine(t), "h100", 1), replicaBlock(hung, "h100", 1), ejected))
	patience := 300 * time.Millisecond
	for range 60 {
		ctx, leave := context.WithTimeout(t.Context(), 30*time.Second)
		r, _ := http.NewRequestWithContext(ctx, http.MethodPost, g.url+"/v1/chat/completions", strings.NewReader(chatBody("hello", true)))
		done := make(chan struct{})
		go func() {
			defer close(done)
			if res, err := http.DefaultClient.Do(r); err == nil {
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
		}()
		select {
		case <-asked:
			time.AfterFunc(patience, leave)
			patience += patience / 2
		case <-done:
		}
		<-done
		leave()
		eventually(t, "nothing is under way", func() bool {
			s := g.state(t, "m")
			return s.Replicas[0].Active+s.Replicas[1].Active == 0
		})
		for _, r := range g.state(t, "m").Replicas {
			if r.Ejected {
				return
			}
		}
	}
	t.Error("the replica that hangs is not ejected")
}

// What this host lacks says nothing of the replica: it is not ejected, and the
// request waits.
func TestAShortageOfThisHostEjectsNobody(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	for _, number := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS} {
		var refused atomic.Int64
		g := start(t, service("m", replicaBlock(replica, "", 1), ejected), func(o *gateway.Options) {
			o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				if refused.Add(1) <= 3 {
					return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("socket", number)}
				}
				return new(net.Dialer).DialContext(ctx, network, address)
			}
		})
		r, _ := http.NewRequest(http.MethodPost, g.url, strings.NewReader("hello"))
		if status, body, _ := do(t, r); status != 200 || body != "hello" {
			t.Errorf("%v: %d %q", number, status, body)
		}
		if s := g.state(t, "m"); s.Replicas[0].Ejected || s.Replicas[0].Probation {
			t.Errorf("%v: the replica is blamed", number)
		}
		if n := g.metric(t, `aliquot_gateway_shortages_total{to="replica"}`); n != "3" {
			t.Errorf("%v: %s shortages are counted", number, n)
		}
		g.stop()
	}
}

func TestAShortageThatLastsIsNamed(t *testing.T) {
	g := start(t, service("m", at(nobody(t)), "queue {\n max_wait = \"200ms\"\n}"), func(o *gateway.Options) {
		o.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, syscall.EMFILE }
	})
	status, _, header := get(t, g.url)
	if status != 503 || header.Get("X-Aliquot-Outcome") != "shortage" || header.Get("Retry-After") == "" {
		t.Errorf("%d %v", status, header)
	}
}

// A connection to a replica is closed before the replica closes it.
func TestIdleConnectionsToReplicasAreClosed(t *testing.T) {
	states := make(chan http.ConnState, 10)
	replica := unstarted(func(w http.ResponseWriter, r *http.Request) {})
	replica.Config.ConnState = func(_ net.Conn, s http.ConnState) { states <- s }
	replica.Start()
	t.Cleanup(replica.Close)
	g := start(t, service("m", replicaBlock(replica, "", 1), "upstream {\n idle_timeout = \"50ms\"\n}"))
	get(t, g.url)
	for {
		select {
		case s := <-states:
			if s == http.StateClosed {
				return
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the connection stays open")
		}
	}
}

// The replica closed the connection that the request was about to use: nothing was
// sent, so that a POST goes out on another.
func TestAPostOnADeadConnectionIsSentOnAnother(t *testing.T) {
	var conns atomic.Int64
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	g := start(t, service("m", replicaBlock(replica, "", 1), "upstream {\n retries = 0\n}"), func(o *gateway.Options) {
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, address)
			if conns.Add(1) == 1 && err == nil {
				c = &dying{Conn: c}
			}
			return c, err
		}
	})
	for i := range 2 {
		r, _ := http.NewRequest(http.MethodPost, g.url, strings.NewReader("hello"))
		if status, body, _ := do(t, r); status != 200 || body != "hello" {
			t.Errorf("request %d: %d %q", i, status, body)
		}
	}
	if conns.Load() != 2 {
		t.Errorf("%d connections were opened, want 2", conns.Load())
	}
}

// dying is a connection on which nothing can be written after the first answer.
type dying struct {
	net.Conn
	answered atomic.Bool
}

func (d *dying) Read(p []byte) (int, error) {
	n, err := d.Conn.Read(p)
	d.answered.Store(d.answered.Load() || n > 0)
	return n, err
}

func (d *dying) Write(p []byte) (int, error) {
	if d.answered.Load() {
		return 0, errors.New("write: broken pipe")
	}
	return d.Conn.Write(p)
}
