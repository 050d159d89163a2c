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
	dialWithin = 500 * time.Millisecond
	dialAgain  = 50 * time.Millisecond
	// shakeWithin bounds a handshake of TLS, in which both ends may ask Consul.
	shakeWithin = 2 * verifyWithin
	// helloWithin is how long a connection may be open without a stream, and a stream on which
	// nobody has said who it is: a gateway does both first.
	helloWithin = 2 * time.Second
	// unacknowledged is after what time a connection ends on which the other host
	// acknowledges nothing. Without it a stream would hang after a network has healed, for
	// as long again as it was broken, since TCP tries less and less often. A stopped
	// process does not end its connections: its host acknowledges.
	unacknowledged = 2 * ownership.Silence
)

// Bound limits how long the other host of a connection may acknowledge nothing. It is the
// Control of a net.Dialer, or of a net.ListenConfig for all connections that it accepts.
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
	raw, err := (&net.Dialer{Timeout: dialWithin, Control: Bound}).DialContext(ctx, "tcp", string(id))
	if err != nil || h.options.Security == nil {
		return raw, err
	}
	ctx, cancel := context.WithTimeout(ctx, shakeWithin)
	defer cancel()
	secured := tls.Client(raw, h.options.Security.client)
	if err := secured.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return secured, nil
}
