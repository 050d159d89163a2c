package gateways

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
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
	busy   map[string]int // by the gateway's process
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
	r := &Replica{Address: l.Addr().String(), Class: class, Slots: slots, Weight: weight, busy: map[string]int{}, doomed: map[string]bool{}}
	r.server.Handler = r
	go r.server.Serve(l)
	return r, nil
}

// Close ends the replica.
func (r *Replica) Close() { r.server.Close() }

// ServeHTTP serves one request.
func (r *Replica) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	io.Copy(io.Discard, req.Body)
	from := req.Header.Get(fromHeader)
	counted := r.begin(from, req.Header.Get("X-Id"))
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
		r.end(from)
	}
	if r.Answer != "" {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, r.Answer)
		return
	}
	io.WriteString(w, "served\n")
}

func (r *Replica) begin(from, id string) (counted bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.doomed[from] {
		return false
	}
	r.busy[from]++
	r.starts = append(r.starts, Start{time.Now(), from, id})
	n := r.sum()
	r.most = max(r.most, n)
	if n > r.Slots {
		r.wrong = append(r.wrong, fmt.Sprintf("%s: replica %s serves %d of %d: %v", time.Now().Format("15:04:05.000"), r.Address, n, r.Slots, r.busy))
	}
	return true
}

func (r *Replica) end(from string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy[from] > 0 {
		r.busy[from]--
	}
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
