package peers

import (
	"context"
	"errors"
	"net"
	"slices"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"aliquot.example/gateway/talk"
	"aliquot.example/internal/ownership"
)

// dial keeps a stream to a gateway open. The caller holds the lock.
func (h *Hub) dial(p *peer) {
	if p.dialing || h.ctx == nil || h.ctx.Err() != nil {
		return
	}
	p.dialing = true
	id, ctx := p.ID, h.ctx
	h.tasks.Go(func() {
		lastLogged := ""
		for ctx.Err() == nil && h.wanted(id) {
			open, err := h.talk(ctx, id)
			if ctx.Err() != nil {
				return
			}
			h.lost(id, err)
			if open {
				continue // retry at once, to see whether the process has ended
			}
			if text := reason(err); text != lastLogged {
				lastLogged = text
				h.options.Log.Warn("cannot reach another gateway; trying again", "gateway", id, "error", text)
			}
			select {
			case <-ctx.Done():
			case <-time.After(dialRetry):
			}
		}
	})
}

func reason(err error) string {
	if err == nil {
		return "the stream has ended"
	}
	return status.Convert(err).Message()
}

// wanted reports whether this gateway should still dial another one: Consul knows it, it has a
// stream to this one, or it was heard recently.
func (h *Hub) wanted(id ownership.ID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.peers[id]
	if p == nil {
		return false
	}
	if p.Registered || p.in != nil || time.Since(p.Heard) < ownership.SlotHold {
		return true
	}
	p.dialing = false
	return false
}

// lost records that a stream to a gateway ended or could not be opened.
func (h *Hub) lost(id ownership.ID, err error) {
	h.mu.Lock()
	if p := h.peers[id]; p != nil {
		if p.Link == ownership.Up {
			p.Link = ownership.Silent
		}
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			// The host refuses the connection, so the process has ended, and its connections to
			// replicas with it.
			p.Link, p.in = ownership.Gone, nil
		case p.Link == ownership.Gone:
			// The host no longer refuses: another process may have started there.
			p.Link, p.Heard, p.process = ownership.Silent, time.Now(), 0
		}
	}
	h.mu.Unlock()
	h.wake()
}

// talk opens a stream to a gateway and reads it until it ends. It reports whether the gateway sent
// anything on it.
func (h *Hub) talk(ctx context.Context, id ownership.ID) (open bool, err error) {
	opened, err := h.connect(ctx, id)
	if err != nil {
		return false, err
	}
	once := make(chan net.Conn, 1)
	once <- opened
	conn, err := grpc.NewClient("passthrough:///"+string(id),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(codec{}),
			grpc.MaxCallRecvMsgSize(maxFrame)),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			select {
			case c := <-once:
				return c, nil
			default:
				return nil, errors.New("the connection has ended")
			}
		}))
	if err != nil {
		opened.Close()
		return false, err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client, err := conn.NewStream(ctx, &talks, method)
	if err != nil {
		return false, err
	}
	s := h.newStream(client)
	s.send(h.hello())
	h.tasks.Go(s.write)
	h.tasks.Go(func() {
		<-s.done // a write that waits for the other end may not notice
		cancel() // ends the read below
	})
	defer s.close()
	err = s.read(func(records []talk.Record) {
		open = true
		h.handleOut(id, s, records)
	})
	h.mu.Lock()
	if p := h.peers[id]; p != nil && p.out == s {
		p.out = nil
	}
	h.mu.Unlock()
	return open, err
}

// handleOut processes records that another gateway sent on the stream that this gateway opened.
func (h *Hub) handleOut(id ownership.ID, s *stream, records []talk.Record) {
	now := time.Now()
	fresh, restarted := false, false
	h.mu.Lock()
	p := h.peer(id, now)
	p.Heard = now
	for i := range records {
		switch r := &records[i]; r.Kind {
		case talk.Hello:
			s.negotiate(r)
			p.out, fresh = s, true
			restarted = p.setProcess(r.Process)
			p.Link = ownership.Silent // updateLines sets it to Up and greets
		case talk.Heartbeat:
			p.lastHeartbeat, p.Leaving, p.serves = r.Heartbeat, r.Leaving, servicesOf(r)
			p.Hears = p.Hears[:0:0]
			for _, id := range r.Hears {
				p.Hears = append(p.Hears, ownership.ID(id))
			}
		}
	}
	lines := h.copyLines()
	h.mu.Unlock()
	if fresh {
		for _, l := range lines {
			if restarted {
				l.Gone(id)
			}
			// SendEpoch must come before the first heartbeat: see follow in package line.
			l.SendEpoch(id)
		}
		h.wake()
	}
	h.deliver(id, records)
}

// servicesOf returns the services that a heartbeat names.
func servicesOf(heartbeat *talk.Record) map[string]bool {
	out := make(map[string]bool, len(heartbeat.Loads))
	for _, l := range heartbeat.Loads {
		out[l.Service] = true
	}
	return out
}

// setProcess records the process ID of a gateway and reports whether it replaces an earlier process,
// whose requests ended with it.
func (p *peer) setProcess(process uint64) (restarted bool) {
	restarted = p.process != 0 && p.process != process
	if restarted {
		p.serves = nil
	}
	p.process = process
	return restarted
}

// serve handles a stream that another gateway opened.
func (h *Hub) serve(server grpc.ServerStream) error {
	s := h.newStream(server)
	defer s.close()
	timer := time.AfterFunc(helloTimeout, s.close)
	defer timer.Stop()
	go s.write()
	read := make(chan error, 1)
	go func() {
		var from ownership.ID
		read <- s.read(func(records []talk.Record) {
			if from == "" {
				if records[0].Kind != talk.Hello || records[0].Gateway == "" {
					s.close()
					return
				}
				timer.Stop()
				s.negotiate(&records[0])
				from = ownership.ID(records[0].Gateway)
				h.welcome(from, s, records[0].Process)
			}
			h.handleIn(from, s, records)
		})
	}()
	var err error
	select {
	case err = <-read:
	case <-s.done:
	case <-server.Context().Done():
	}
	s.close() // before taking the lock: welcome checks ended() under it
	h.mu.Lock()
	for _, p := range h.peers {
		if p.in == s {
			p.in, p.acked = nil, time.Time{}
		}
	}
	h.mu.Unlock()
	h.wake()
	return err
}

// welcome registers a stream whose other end has sent its Hello, unless the stream has ended.
func (h *Hub) welcome(from ownership.ID, s *stream, process uint64) {
	now := time.Now()
	h.mu.Lock()
	if s.ended() {
		h.mu.Unlock()
		return
	}
	p := h.peer(from, now)
	if p.in != nil {
		p.in.close()
	}
	restarted := p.setProcess(process)
	p.in, p.acked = s, time.Time{}
	if p.Link == ownership.Gone {
		p.Link, p.Heard = ownership.Silent, now
	}
	s.send(h.hello())
	h.dial(p)
	lines := h.copyLines()
	h.mu.Unlock()
	for _, l := range lines {
		if restarted {
			l.Gone(from)
		}
		l.Greet(from)
	}
}

// handleIn processes records that another gateway sent on the stream that it opened.
func (h *Hub) handleIn(from ownership.ID, s *stream, records []talk.Record) {
	h.mu.Lock()
	p := h.peers[from]
	if p == nil || p.in != s {
		h.mu.Unlock()
		s.close()
		return // the gateway has opened a newer stream
	}
	for i := range records {
		if r := &records[i]; r.Kind == talk.Heartbeat && r.Heard > 0 && h.heartbeat-r.Heard < uint64(len(h.sent)) {
			p.acked = h.sent[r.Heard%uint64(len(h.sent))]
			p.Leaving = r.Leaving
		}
	}
	h.mu.Unlock()
	h.deliver(from, records)
}

// deliver gives each run of records about one service to the line of that service.
func (h *Hub) deliver(from ownership.ID, records []talk.Record) {
	for i := 0; i < len(records); {
		n := i + 1
		for n < len(records) && records[n].Service == records[i].Service {
			n++
		}
		h.deliverRun(from, records[i:n])
		i = n
	}
}

func (h *Hub) deliverRun(from ownership.ID, records []talk.Record) {
	r := &records[0]
	if r.Service != "" {
		h.mu.Lock()
		l := h.lines[r.Service]
		h.mu.Unlock()
		if l != nil {
			l.Take(from, records)
			if slices.ContainsFunc(records, changesRoles) {
				h.wake()
			}
		}
		return
	}
	for i := range records {
		switch r := &records[i]; r.Kind {
		case talk.Heartbeat:
			for _, load := range r.Loads {
				h.mu.Lock()
				l := h.lines[load.Service]
				h.mu.Unlock()
				if l != nil {
					l.Carries(from, load)
					h.compare(from, load, l.Config())
				}
			}
		case talk.Spent:
			h.mu.Lock()
			spent := h.spent
			h.mu.Unlock()
			if spent != nil {
				spent(r.Tenant, r.Amount)
			}
		}
	}
}

// compare logs when another gateway's configuration of a service starts or stops differing from
// this one's.
func (h *Hub) compare(with ownership.ID, load talk.Load, own uint64) {
	differs := load.Config != 0 && load.Config != own
	h.mu.Lock()
	p := h.peers[with]
	changed := p != nil && p.differs[load.Service] != differs
	if changed {
		p.differs[load.Service] = differs
	}
	h.mu.Unlock()
	switch {
	case changed && differs:
		h.options.Log.Warn("another gateway configures a service differently; the owner's configuration is in force",
			"gateway", with, "service", load.Service)
	case changed:
		h.options.Log.Info("another gateway configures a service the same way again", "gateway", with,
			"service", load.Service)
	}
}

// changesRoles reports whether a record may require action at once.
func changesRoles(r talk.Record) bool {
	switch r.Kind {
	case talk.Claimed, talk.Ended, talk.Lapsed, talk.Newer:
		return true
	}
	return false
}

// Spend tells the other gateways how many tokens a tenant used here.
func (h *Hub) Spend(tenant string, amount float64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.peers {
		if p.out != nil {
			p.out.send(talk.Record{Kind: talk.Spent, Tenant: tenant, Amount: amount})
		}
	}
}
