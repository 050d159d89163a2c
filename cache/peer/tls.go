package peer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"aliquot.example/cache/bulk"
)

// Files are the paths of a certificate, its key and the CA for mutual TLS. They are read for each
// handshake, so that a renewed certificate needs no restart.
type Files struct {
	CA, Cert, Key string
	// ServerName is a name in the certificate of every cache.
	ServerName string
}

func (f Files) config() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fmt.Errorf("peer certificate: %w", err)
	}
	text, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fmt.Errorf("peer CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("peer CA: %s has no PEM certificate", f.CA)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair},
		RootCAs: pool, ServerName: f.ServerName, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		NextProtos: []string{"http/1.1"},
		// Both sides reject a certificate of the same CA that does not belong to a cache.
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return errors.New("no certificate")
			}
			return s.PeerCertificates[0].VerifyHostname(f.ServerName)
		},
	}, nil
}

// trusted checks the server's certificate of a connection with the present files, as a new
// handshake would. If they cannot be read, the connection stays trusted.
func (f Files) trusted(s *tls.ConnectionState) error {
	config, err := f.config()
	if err != nil {
		return nil
	}
	others := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		others.AddCert(c)
	}
	_, err = s.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots: config.RootCAs, Intermediates: others, DNSName: f.ServerName,
	})
	return err
}

// Listen wraps a listener for peers in TLS.
func (f Files) Listen(l net.Listener) (net.Listener, error) {
	if _, err := f.config(); err != nil {
		return nil, err
	}
	return bulk.Listen(l, &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return f.config()
	}}), nil
}

// NewClient returns a client for peers; files is nil on a trusted network.
func NewClient(files *Files) *http.Client {
	dialer := &net.Dialer{Timeout: 2 * time.Second}
	t := &http.Transport{
		DialContext: bulk.Dial(dialer), ResponseHeaderTimeout: 4 * time.Second,
		// The server's idle timeout is one minute. The client's is shorter, so that it sends no
		// request on a connection that the server is just closing.
		MaxIdleConnsPerHost: 16, IdleConnTimeout: 45 * time.Second, DisableCompression: true,
		ReadBufferSize: 64 << 10, // several small frames at a time
	}
	if files != nil {
		t.DialTLSContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			config, err := files.config()
			if err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(ctx, dialer.Timeout)
			defer cancel()
			raw, err := bulk.Dial(dialer)(ctx, network, address)
			if err != nil {
				return nil, err
			}
			c := tls.Client(raw, config)
			if err := c.HandshakeContext(ctx); err != nil {
				raw.Close()
				return nil, err
			}
			return c, nil
		}
	}
	return &http.Client{Transport: t}
}
