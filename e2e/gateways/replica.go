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

// Headers of the requests of a load. ServeHeader says for how long a replica serves it.
const (
	fromHeader  = "X-From"  // the gateway's process through which it goes
	ServeHeader = "X-Serve" // how long it is served
)

// Replica is a server of so many slots that counts what it serves. It takes every
// request that comes, as a model server would.
type Replica struct {
	Address string
	Class   string
	Slots   int
	Weight  float64
	// Serve serves a request in place of the time that its header says.
	Serve func(r *http.Request)
	// Answer is an answer in JSON, in place of a text.
	Answer string

	server http.Server
	mu     sync.Mutex
	busy   map[string]int      // by the gateway's process
	conns  map[net.Conn]string // on which a request is served, with the gateway's process
	doomed map[string]bool
	most   int
	wrong  []string
	starts []Start
}

// Start is one request that began to be served.
type Start struct {
	At      time.Time
	Gateway string // its process
	ID      string // the request's, where it has one
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

// connKey is that of a request's connection in its context.
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
	r.most = max(r.most, n)
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

// left is how many requests still count whose gateway has closed their connection, since their
// client left, and gave the slot to another one: the kernel knows it before their handlers do.
func (r *Replica) left() (n int) {
	for conn := range r.conns {
		if closed(conn) {
			n++
		}
	}
	return n
}

// closed reports whether the other end of a connection has closed it.
func closed(conn net.Conn) (is bool) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return true // this end has closed it, after the other one
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

// forget takes that a gateway's process is about to be killed: its connections are
// closed with it, and what still runs for it here is nobody's.
func (r *Replica) forget(g *Gateway) {
	r.mu.Lock()
	defer r.mu.Unlock()
	from := g.tag()
	r.doomed[from] = true
	delete(r.busy, from)
	maps.DeleteFunc(r.conns, func(_ net.Conn, of string) bool { return of == from })
}

// Exceeded lists when more requests ran than there are slots.
func (r *Replica) Exceeded() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.wrong...)
}

// Reset begins a new count of Most and Starts.
func (r *Replica) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.most, r.starts = 0, nil
}

// Most is how many requests ran at once since Reset.
func (r *Replica) Most() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.most
}

// Starts are the requests that began since Reset, in order.
func (r *Replica) Starts() []Start {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Start(nil), r.starts...)
}
