// Package peers connects the gateways that serve the same services. Each gateway opens a stream to
// every other one. On that stream it asks for slots of the services that the other one owns (see
// package ownership), and receives the other one's heartbeats.
package peers

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"aliquot.example/gateway/line"
	"aliquot.example/gateway/talk"
	"aliquot.example/internal/ownership"
)

// Gateway is a gateway as Consul knows it.
type Gateway struct {
	ID      ownership.ID
	Passing bool
}

// Registry lists the gateways and stores which gateway owns each service.
type Registry interface {
	// Gateways calls set with all gateways whenever they change, until ctx ends.
	Gateways(ctx context.Context, set func([]Gateway))
	// Records calls set with the owners of all services whenever they change, and with ok = false
	// when Consul does not answer, until ctx ends.
	Records(ctx context.Context, set func(records map[string]ownership.Record, ok bool))
	// Read returns the current owners, read from Consul's leader.
	Read(ctx context.Context) (map[string]ownership.Record, error)
	// Swap replaces the record old by next and reports whether old was still the current one.
	Swap(ctx context.Context, service string, old, next ownership.Record) (bool, error)
}

// Options are the parts of a Hub.
type Options struct {
	Self     ownership.ID
	Address  string // to listen on
	Registry Registry
	Security *Security // nil for plain TCP
	Log      *slog.Logger
}

// Hub manages this gateway's connections to the others.
type Hub struct {
	options  Options
	process  uint64
	version  uint64 // the highest protocol version that this gateway speaks
	listener net.Listener
	server   *grpc.Server

	mu        sync.Mutex
	lines     map[string]*line.Shared
	peers     map[ownership.ID]*peer
	records   map[string]ownership.Record
	read      bool // records have been read at least once
	consul    bool
	leaving   bool
	heartbeat uint64        // number of the last heartbeat sent
	sent      [64]time.Time // when each of the last heartbeats was sent
	ctx       context.Context
	tasks     sync.WaitGroup
	wakeups   chan struct{}
	claims    map[string]bool // claims under way, by service
	spent     func(tenant string, tokens float64)
}

// peer is another gateway.
type peer struct {
	ownership.Peer
	process       uint64
	out, in       *stream // opened by this gateway and by the other one
	lastHeartbeat uint64  // number of the last heartbeat received
	acked         time.Time
	dialing       bool
	// serves are the services that it has; nil while unknown.
	serves map[string]bool
	// differs are the services for which its configuration differs from this gateway's.
	differs map[string]bool
}

// connected reports whether this gateway and the other one hear each other. If only one of them hears
// the other, both must notice within the same time, because grants to a gateway that is not heard
// are void by then.
func (p *peer) connected(now time.Time) bool {
	return p.out != nil && p.in != nil && now.Sub(p.Heard) < ownership.PeerTimeout &&
		now.Sub(p.acked) < ownership.PeerTimeout
}

// has reports whether the gateway may hold slots of a service or become its owner.
func (p *peer) has(service string) bool { return p.serves == nil || p.serves[service] }

// New returns a hub. It opens no connections.
func New(o Options) *Hub {
	var random [8]byte
	rand.Read(random[:])
	return &Hub{
		options: o, process: binary.LittleEndian.Uint64(random[:]), version: talk.Version,
		lines: map[string]*line.Shared{}, peers: map[ownership.ID]*peer{}, records: map[string]ownership.Record{},
		wakeups: make(chan struct{}, 1), claims: map[string]bool{},
	}
}

// Share returns a line for a service, shared with the other gateways.
func (h *Hub) Share(name string, o line.Options) *line.Shared {
	l := line.NewShared(o, name, h.options.Self, h.send)
	h.mu.Lock()
	previous := h.lines[name]
	h.lines[name] = l
	record, read := h.records[name], h.read
	h.mu.Unlock()
	if previous != nil {
		previous.Detach()
	}
	if read {
		l.Saw(record)
	}
	return l
}

// Drop removes the line of a deleted service, unless the name has another line by now.
func (h *Hub) Drop(name string, l *line.Shared) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lines[name] == l {
		delete(h.lines, name)
	}
}

// Spent sets the function that receives the token usage of tenants at other gateways.
func (h *Hub) Spent(take func(tenant string, tokens float64)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.spent = take
}

// Live returns the number of other gateways whose streams are up in both directions.
func (h *Hub) Live() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.peers {
		if p.Link == ownership.Up {
			n++
		}
	}
	return n
}

// Listen opens the listener for other gateways.
func (h *Hub) Listen() error {
	l, err := (&net.ListenConfig{Control: Bound}).Listen(context.Background(), "tcp", h.options.Address)
	h.listener = l
	return err
}

// Leave announces that this gateway is about to end, so that its services move to others.
func (h *Hub) Leave() {
	h.mu.Lock()
	h.leaving = true
	h.mu.Unlock()
	h.wake()
}

// Run serves until ctx ends.
func (h *Hub) Run(ctx context.Context) {
	h.mu.Lock()
	h.ctx = ctx
	h.mu.Unlock()
	options := []grpc.ServerOption{grpc.ForceServerCodec(codec{}), grpc.MaxRecvMsgSize(maxFrame),
		grpc.ConnectionTimeout(handshakeTimeout), grpc.MaxConcurrentStreams(1),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: helloTimeout})}
	if s := h.options.Security; s != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(s.server)))
	}
	h.server = grpc.NewServer(options...)
	h.server.RegisterService(h.service(), h)
	h.tasks.Go(func() { h.server.Serve(h.listener) })
	h.tasks.Go(func() { h.options.Registry.Gateways(ctx, h.setGateways) })
	h.tasks.Go(func() { h.options.Registry.Records(ctx, h.recorded) })
	h.tasks.Go(func() { h.confirm(ctx) })
	tick := time.NewTicker(ownership.HeartbeatInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			h.sendHeartbeats()
			h.updateLines()
		case <-h.wakeups:
			h.updateLines()
		case <-ctx.Done():
			h.server.Stop()
			h.tasks.Wait()
			return
		}
	}
}

// wake makes the loop of Run call updateLines at once.
func (h *Hub) wake() {
	select {
	case h.wakeups <- struct{}{}:
	default:
	}
}

// send sends a record to a gateway: requests on the stream that this gateway opened, answers on the
// other one. If that stream is not open, the record is lost, as it could be in transit.
func (h *Hub) send(to ownership.ID, r talk.Record) {
	h.mu.Lock()
	p := h.peers[to]
	var s *stream
	if p != nil {
		if s = p.out; r.Kind.FromOwner() {
			s = p.in
		}
	}
	h.mu.Unlock()
	if s != nil {
		s.send(r)
	}
}

// setGateways updates the peers with the gateways that Consul lists.
func (h *Hub) setGateways(all []Gateway) {
	now := time.Now()
	h.mu.Lock()
	for _, p := range h.peers {
		p.Registered = false
	}
	for _, m := range all {
		if m.ID == h.options.Self {
			continue
		}
		p := h.peer(m.ID, now)
		p.Registered = m.Passing
		h.dial(p)
	}
	h.mu.Unlock()
	h.wake()
}

// peer returns the peer with the given ID and adds it if it is new. The caller holds the lock.
func (h *Hub) peer(id ownership.ID, now time.Time) *peer {
	p := h.peers[id]
	if p == nil {
		p = &peer{Peer: ownership.Peer{ID: id, Heard: now}, differs: map[string]bool{}}
		h.peers[id] = p
	}
	return p
}

// recorded stores the owners of all services.
func (h *Hub) recorded(records map[string]ownership.Record, ok bool) {
	h.mu.Lock()
	h.consul = ok
	if ok {
		h.records, h.read = records, true
	}
	lines := h.copyLines()
	h.mu.Unlock()
	if ok {
		for name, l := range lines {
			l.Saw(records[name])
		}
	}
	h.wake()
}

// copyLines copies the lines. The caller holds the lock.
func (h *Hub) copyLines() map[string]*line.Shared {
	out := make(map[string]*line.Shared, len(h.lines))
	for name, l := range h.lines {
		out[name] = l
	}
	return out
}

// updateLines passes the state of the other gateways to every line.
func (h *Hub) updateLines() {
	now := time.Now()
	h.mu.Lock()
	live, greet := h.judgeLinks(now)
	acked := now
	for _, p := range live {
		if p.Link != ownership.Gone && p.acked.Before(acked) {
			acked = p.acked
		}
	}
	lines, views := h.copyLines(), map[string]ownership.View{}
	for name := range lines {
		views[name] = h.viewOf(name, live)
	}
	h.mu.Unlock()
	for name, l := range lines {
		l.Acked(acked)
		for _, id := range greet {
			l.Greet(id)
		}
		if l.UpdatePeers(views[name]) {
			h.claim(name, l)
		}
	}
}

// judgeLinks updates the links to the other gateways and removes those that have left. It returns
// the remaining ones, and those that have just come up. The caller holds the lock.
func (h *Hub) judgeLinks(now time.Time) (live []*peer, up []ownership.ID) {
	for id, p := range h.peers {
		was := p.Link
		switch {
		case p.connected(now):
			p.Link = ownership.Up
		case p.Link == ownership.Up:
			p.Link = ownership.Silent
		}
		if p.Link == ownership.Up && was != ownership.Up {
			up = append(up, id)
		}
		if p.forgotten(now) {
			delete(h.peers, id)
			continue
		}
		p.Unheard = p.process == 0
		live = append(live, p)
	}
	return live, up
}

// forgotten reports whether the gateway has left: Consul does not list it, no stream connects it,
// and its grants have expired.
func (p *peer) forgotten(now time.Time) bool {
	return p.in == nil && p.out == nil && !p.Registered && !p.dialing && now.Sub(p.Heard) > ownership.SlotHold
}

// viewOf returns what the line of a service sees of the other gateways. The caller holds the lock.
func (h *Hub) viewOf(service string, live []*peer) ownership.View {
	v := ownership.View{Consul: h.consul, Leaving: h.leaving}
	for _, p := range live {
		if p.has(service) {
			seen := p.Peer
			seen.Acked = p.acked
			v.Peers = append(v.Peers, seen)
		}
	}
	return v
}

// sendHeartbeats sends a heartbeat with this gateway's load to all others, and acknowledges theirs.
func (h *Hub) sendHeartbeats() {
	h.mu.Lock()
	lines := h.copyLines()
	h.mu.Unlock()
	var loads []talk.Load
	for _, l := range lines {
		loads = append(loads, l.Loads())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.heartbeat++
	h.sent[h.heartbeat%uint64(len(h.sent))] = time.Now()
	var hears []string
	for id, p := range h.peers {
		if p.Link == ownership.Up {
			hears = append(hears, string(id))
		}
	}
	for _, p := range h.peers {
		if p.in != nil {
			p.in.send(talk.Record{Kind: talk.Heartbeat, Heartbeat: h.heartbeat, Leaving: h.leaving, Loads: loads,
				Hears: hears})
		}
		if p.out != nil {
			p.out.send(talk.Record{Kind: talk.Heartbeat, Heard: p.lastHeartbeat, Leaving: h.leaving})
		}
	}
}
