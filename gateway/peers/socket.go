package peers

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"aliquot.example/internal/ownership"
)

const (
	dialTimeout = 500 * time.Millisecond
	dialRetry   = 50 * time.Millisecond
	// handshakeTimeout bounds a TLS handshake, during which both ends may query Consul.
	handshakeTimeout = 2 * verifyTimeout
	// helloTimeout is how long a connection may stay open without a stream, and a stream without a
	// Hello. A gateway opens the stream and sends its Hello at once.
	helloTimeout = 2 * time.Second
	// unacknowledged closes a connection after this long without an acknowledgement from the other
	// host. Without it, a stream would hang after a network outage for about as long as the outage
	// lasted, because TCP retransmits less and less often. A stopped process does not close its
	// connections, because its host still acknowledges.
	unacknowledged = 2 * ownership.PeerTimeout
)

// Bound limits how long the other host of a connection may acknowledge nothing. Use it as the
// Control of a net.Dialer, or of a net.ListenConfig to bound every connection that it accepts.
func Bound(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT,
			int(unacknowledged.Milliseconds()))
	})
	return errors.Join(err, failed)
}

// connect opens a connection to a gateway.
func (h *Hub) connect(ctx context.Context, id ownership.ID) (net.Conn, error) {
	raw, err := (&net.Dialer{Timeout: dialTimeout, Control: Bound}).DialContext(ctx, "tcp", string(id))
	if err != nil || h.options.Security == nil {
		return raw, err
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	secured := tls.Client(raw, h.options.Security.client)
	if err := secured.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return secured, nil
}
