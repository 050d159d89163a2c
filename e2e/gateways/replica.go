package gateways

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Headers of a load's requests. ServeHeader says how long a replica serves the request.
const (
	fromHeader  = "X-From"  // the process of the gateway that forwards it
	ServeHeader = "X-Serve" // how long to serve it
)

// Replica is a server with a number of slots that counts what it serves. It accepts every request,
// as a model server would.
type Replica struct {
	Address string
	Class   string
	Slots   int
	Weight  float64
	// Serve, if set, serves a request instead of waiting for the time in its header.
	Serve func(r *http.Request)
	// Answer, if set, is a JSON answer that replaces the text.
	Answer string

	server    http.Server
	mu        sync.Mutex
	busy      map[string]int      // by gateway process
	conns     map[net.Conn]string // connections with a request in progress, and the gateway process of each
	doomed    map[string]bool
	maxActive int
	wrong     []string
	starts    []Start
}

// Start records the start of one request.
type Start struct {
	At      time.Time
	Gateway string // the gateway's process
	ID      string // the request's ID, if it has one
}

// NewReplica starts a replica on an address of this host; Close ends it.
func NewReplica(host, class string, slots int, weight float64) (*Replica, error) {
	l, err := net.Listen("tcp", host+":0")
	if err != nil {
		return nil, err
	}
	r := &Replica{Address: l.Addr().String(), Class: class, Slots: slots, Weight: weight, busy: map[string]int{},
		conns: map[net.Conn]string{}, doomed: map[string]bool{}}
	r.server.Handler = r
	r.server.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, c)
	}
	go r.server.Serve(l)
	return r, nil
}

// Close ends the replica.
func (r *Replica) Close() { r.server.Close() }

// connKey is the context key of a request's connection.
type connKey struct{}

// ServeHTTP serves one request.
func (r *Replica) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	io.Copy(io.Discard, req.Body)
	from := req.Header.Get(fromHeader)
	conn, _ := req.Context().Value(connKey{}).(net.Conn)
	counted := r.begin(conn, from, req.Header.Get("X-Id"))
	if r.Serve != nil {
		r.Serve(req)
	} else {
		serve, _ := time.ParseDuration(req.Header.Get(ServeHeader))
		select {
		case <-time.After(serve):
		case <-req.Context().Done():
		}
	}
	if counted {
		r.end(conn, from)
	}
	if r.Answer != "" {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, r.Answer)
		return
	}
	io.WriteString(w, "served\n")
}

func (r *Replica) begin(conn net.Conn, from, id string) (counted bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.doomed[from] {
		return false
	}
	r.busy[from]++
	r.conns[conn] = from
	r.starts = append(r.starts, Start{time.Now(), from, id})
	n := r.sum()
	r.maxActive = max(r.maxActive, n)
	if n > r.Slots && n-r.left() > r.Slots {
		r.wrong = append(r.wrong, fmt.Sprintf("%s: replica %s serves %d of %d: %v", time.Now().Format("15:04:05.000"),
			r.Address, n, r.Slots, r.busy))
	}
	return true
}

func (r *Replica) end(conn net.Conn, from string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, conn)
	if r.busy[from] > 0 {
		r.busy[from]--
	}
}

// left counts the requests that are still counted as running although their gateway has closed the
// connection, because the client left, and given the slot to another request. The kernel knows this
// before their handlers do.
func (r *Replica) left() (n int) {
	for conn := range r.conns {
		if closed(conn) {
			n++
		}
	}
	return n
}

// closed reports whether the peer has closed a connection.
func closed(conn net.Conn) (is bool) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return true // this end has closed it, after the peer did
	}
	err = raw.Control(func(fd uintptr) {
		const established = 1 // TCP_ESTABLISHED of Linux's tcp_states.h
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		is = err == nil && info.State != established
	})
	return is || err != nil
}

func (r *Replica) sum() (n int) {
	for _, busy := range r.busy {
		n += busy
	}
	return n
}

// forget stops counting the requests of a gateway process that is about to be killed: its
// connections close with it, and nobody waits for what still runs here.
func (r *Replica) forget(g *Gateway) {
	r.mu.Lock()
	defer r.mu.Unlock()
	from := g.tag()
	r.doomed[from] = true
	delete(r.busy, from)
	maps.DeleteFunc(r.conns, func(_ net.Conn, of string) bool { return of == from })
}

// Exceeded lists the times at which more requests ran than there are slots.
func (r *Replica) Exceeded() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.wrong...)
}

// Reset restarts MaxActive and Starts.
func (r *Replica) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.maxActive, r.starts = 0, nil
}

// MaxActive returns the largest number of requests that ran at once since Reset.
func (r *Replica) MaxActive() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.maxActive
}

// Starts returns the requests that started since Reset, in order.
func (r *Replica) Starts() []Start {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Start(nil), r.starts...)
}
