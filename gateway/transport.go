package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"aliquot.example/gateway/config"
	"aliquot.example/gateway/wire"
)

// dialError is an error that occurred before any byte was sent to a replica.
type dialError struct{ error }

func (d dialError) Unwrap() error { return d.error }

// transports are the transports to a service's replicas: main for HTTP/1.1 or TLS, h2c for HTTP/2
// without TLS, and the gateway's own one for HTTP/1.1 if it is configured.
type transports struct {
	main, h2c *http.Transport
	own       *wire.Transport // nil if main is used instead
	scheme    string
	always    bool // h2c for every request
}

// Dial opens a connection to a replica's host:port.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

func newTransports(u config.Upstream, dial Dial) (*transports, error) {
	if dial == nil {
		dial = (&net.Dialer{Timeout: u.ConnectTimeout, KeepAlive: 30 * time.Second}).DialContext
	}
	marked := func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if isShortage(err) {
			return nil, err
		}
		if err != nil {
			return nil, dialError{err}
		}
		return c, nil
	}
	base := &http.Transport{
		DialContext:           marked,
		MaxIdleConns:          0, // as many as there are slots
		MaxIdleConnsPerHost:   4096,
		IdleConnTimeout:       u.IdleTimeout,
		TLSHandshakeTimeout:   u.ConnectTimeout,
		ResponseHeaderTimeout: u.HeaderTimeout,
		ExpectContinueTimeout: time.Second,
		// Only the replica answers the client's Accept-Encoding.
		DisableCompression:     true,
		MaxResponseHeaderBytes: 1 << 20,
	}
	t := &transports{main: base, scheme: "http", always: u.Protocol == "h2c"}
	switch u.Protocol {
	case "https":
		t.scheme = "https"
		roots, err := pool(u.CAFile)
		if err != nil {
			return nil, err
		}
		base.TLSClientConfig = &tls.Config{RootCAs: roots, ServerName: u.ServerName, MinVersion: tls.VersionTLS12}
		base.ForceAttemptHTTP2 = true
	case "auto", "h2c":
		t.h2c = base.Clone()
		t.h2c.Protocols = new(http.Protocols)
		t.h2c.Protocols.SetUnencryptedHTTP2(true)
	}
	if u.Client == "wire" && u.Protocol != "https" {
		t.own = &wire.Transport{
			Dial: marked, IdleTimeout: u.IdleTimeout, HeaderTimeout: u.HeaderTimeout,
			ContinueTimeout: base.ExpectContinueTimeout, MaxHeaderBytes: int(base.MaxResponseHeaderBytes),
		}
	}
	return t, nil
}

func pool(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("upstream ca_file: %w", err)
	}
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("upstream ca_file: %s has no PEM certificate", file)
	}
	return p, nil
}

// to returns the transport for a request. gRPC needs HTTP/2, and an upgrade needs net/http, which
// can hand over the connection.
func (t *transports) to(grpc, upgrade bool) http.RoundTripper {
	switch {
	case t.h2c != nil && (t.always || grpc):
		return t.h2c
	case t.own != nil && !upgrade:
		return t.own
	}
	return t.main
}

func (t *transports) close() {
	t.main.CloseIdleConnections()
	if t.own != nil {
		t.own.CloseIdleConnections()
	}
	if t.h2c != nil {
		t.h2c.CloseIdleConnections()
	}
}
