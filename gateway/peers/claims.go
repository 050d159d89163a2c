package peers

import (
	"context"
	"time"

	"aliquot.example/gateway/line"
	"aliquot.example/internal/ownership"
)

// claim claims ownership of a service in the background.
func (h *Hub) claim(name string, l *line.Shared) {
	h.mu.Lock()
	ctx := h.ctx
	if h.claims[name] {
		h.mu.Unlock()
		return
	}
	h.claims[name] = true
	h.mu.Unlock()
	h.tasks.Go(func() {
		defer func() {
			h.mu.Lock()
			delete(h.claims, name)
			h.mu.Unlock()
		}()
		ctx, cancel := context.WithTimeout(ctx, claimTimeout)
		defer cancel()
		next, old := l.Next()
		sent := time.Now()
		ok, err := h.options.Registry.Swap(ctx, name, old, next)
		switch {
		case err != nil:
			h.options.Log.Warn("cannot claim a service; trying again when Consul answers", "service", name,
				"error", err)
			h.mu.Lock()
			h.consul = false // until Consul answers again
			h.mu.Unlock()
			h.reread(ctx)
		case ok:
			h.options.Log.Info("this gateway owns a service", "service", name, "epoch", next.Epoch)
			l.Taken(next.Epoch, sent)
			h.wake()
		default:
			h.reread(ctx)
		}
	})
}

// claimTimeout bounds a claim, which sends two requests to Consul. It is long because a service has
// no owner until Consul answers.
const claimTimeout = 20 * time.Second

// reread reads the owners of all services from Consul.
func (h *Hub) reread(ctx context.Context) {
	if records, err := h.options.Registry.Read(ctx); err == nil {
		h.recorded(records, true)
	}
}

// confirmInterval is the interval at which an owner asks Consul whether it is still the owner while
// some gateway does not acknowledge its heartbeats.
const confirmInterval = 200 * time.Millisecond

// confirm renews this gateway's leases through Consul while other gateways do not acknowledge.
func (h *Hub) confirm(ctx context.Context) {
	tick := time.NewTicker(confirmInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if !h.awaitsAck() {
			continue
		}
		asked := time.Now()
		short, cancel := context.WithTimeout(ctx, ownership.Lease)
		records, err := h.options.Registry.Read(short)
		cancel()
		if err != nil {
			continue
		}
		h.mu.Lock()
		lines := h.copyLines()
		h.consul = true
		h.mu.Unlock()
		for name, l := range lines {
			l.Confirm(records[name], asked)
		}
	}
}

// awaitsAck reports whether a gateway that may still be alive has not acknowledged a recent
// heartbeat.
func (h *Hub) awaitsAck() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.peers {
		if p.Link != ownership.Gone && time.Since(p.acked) > 5*ownership.HeartbeatInterval/2 {
			return len(h.lines) > 0
		}
	}
	return false
}
