package wire

import "time"

// maxIdle bounds the idle connections to one address.
const maxIdle = 4096

// take returns an idle connection to an address that is still open, or nil.
func (t *Transport) take(address string) *conn {
	for {
		t.mu.Lock()
		t.ending = false
		all := t.idle[address]
		if len(all) == 0 {
			t.mu.Unlock()
			return nil
		}
		c := all[len(all)-1]
		all[len(all)-1] = nil
		t.idle[address] = all[:len(all)-1]
		t.mu.Unlock()
		if !c.expired(time.Now()) && c.socket.Quiet() {
			return c
		}
		c.Conn.Close()
	}
}

// put keeps a connection for the next request.
func (t *Transport) put(c *conn) {
	c.since = time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ending || len(t.idle[c.address]) >= maxIdle {
		c.Conn.Close()
		return
	}
	if t.idle == nil {
		t.idle = map[string][]*conn{}
	}
	t.idle[c.address] = append(t.idle[c.address], c)
	if t.sweep == nil {
		t.sweep = time.AfterFunc(t.untilOver(0), t.clear)
	}
}

// expired reports whether a connection has been idle for too long.
func (c *conn) expired(now time.Time) bool {
	limit := c.transport.IdleTimeout
	return limit > 0 && now.Sub(c.since) >= limit
}

// checkInterval is how often to check idle connections that may stay: a connection that its replica
// closed must not hold a file descriptor for ever.
const checkInterval = 30 * time.Second

// untilOver returns when to check a connection that has been idle for the given time.
func (t *Transport) untilOver(idle time.Duration) time.Duration {
	if t.IdleTimeout > 0 {
		return min(t.IdleTimeout-idle, checkInterval)
	}
	return checkInterval
}

// clear closes connections that have been idle for too long or that their replica closed, and
// schedules the next run.
func (t *Transport) clear() {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	next := checkInterval
	for address, all := range t.idle {
		kept := all[:0]
		for _, c := range all {
			if c.expired(now) || !c.socket.Quiet() {
				c.Conn.Close()
				continue
			}
			kept = append(kept, c)
			next = min(next, t.untilOver(now.Sub(c.since)))
		}
		clear(all[len(kept):])
		if t.idle[address] = kept; len(kept) == 0 {
			delete(t.idle, address)
		}
	}
	if t.sweep = nil; len(t.idle) > 0 {
		t.sweep = time.AfterFunc(next, t.clear)
	}
}

// CloseIdleConnections closes the idle connections, and each connection in use once its request
// ends, until the next request.
func (t *Transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ending = true
	for _, all := range t.idle {
		for _, c := range all {
			c.Conn.Close()
		}
	}
	t.idle = nil
	if t.sweep != nil {
		t.sweep.Stop()
		t.sweep = nil
	}
}
