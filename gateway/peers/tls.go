package peers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"google.golang.org/grpc/credentials"
)

// Identity is by which gateways know each other.
type Identity interface {
	// Certificate returns this gateway's own.
	Certificate(ctx context.Context) (*tls.Certificate, error)
	// Roots returns those that sign the certificates of gateways.
	Roots(ctx context.Context) (*x509.CertPool, error)
	// Check refuses a certificate, signed by one of them, that is no gateway's.
	Check(*x509.Certificate) error
}

// Files is an Identity in PEM files, read again for each connection. Whoever has a
// certificate of the CA is a gateway.
type Files struct{ Cert, Key, CA string }

// Certificate is that of Identity.
func (f Files) Certificate(context.Context) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fmt.Errorf("peers: %w", err)
	}
	return &pair, nil
}

// Roots is that of Identity.
func (f Files) Roots(context.Context) (*x509.CertPool, error) {
	pem, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fmt.Errorf("peers: ca_file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("peers: ca_file: %s holds no PEM certificate", f.CA)
	}
	return roots, nil
}

// Check is that of Identity.
func (Files) Check(*x509.Certificate) error { return nil }

// Secure returns credentials for both ends of the streams: each proves by a certificate
// that it is a gateway. Names and addresses are not looked at, as gateways come and go.
func Secure(i Identity) (server, client credentials.TransportCredentials) {
	verify := func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return errors.New("peers: the other end has no certificate")
		}
		roots, err := i.Roots(context.Background())
		if err != nil {
			return err
		}
		between := x509.NewCertPool()
		for _, c := range s.PeerCertificates[1:] {
			between.AddCert(c)
		}
		leaf := s.PeerCertificates[0]
		_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if err != nil {
			return err
		}
		return i.Check(leaf)
	}
	server = credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert, VerifyConnection: verify,
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return i.Certificate(h.Context()) },
	})
	client = credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, VerifyConnection: verify, // instead of by name
		GetClientCertificate: func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) { return i.Certificate(r.Context()) },
	})
	return server, client
}
