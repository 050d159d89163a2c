package peers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"
)

// Identity is how gateways authenticate each other.
type Identity interface {
	// Certificate returns this gateway's certificate.
	Certificate(ctx context.Context) (*tls.Certificate, error)
	// Roots returns the CAs that sign the certificates of gateways. It may return cached CAs unless
	// fresh is set.
	Roots(ctx context.Context, fresh bool) (*x509.CertPool, error)
	// Check returns an error for a certificate that one of the CAs signed but that does not belong
	// to a gateway.
	Check(*x509.Certificate) error
}

// Files is an Identity from PEM files, which are read again for each connection. Any certificate
// that the CA signed counts as a gateway's.
type Files struct{ Cert, Key, CA string }

// Certificate implements Identity.
func (f Files) Certificate(context.Context) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fmt.Errorf("peers: %w", err)
	}
	return &pair, nil
}

// Roots implements Identity.
func (f Files) Roots(context.Context, bool) (*x509.CertPool, error) {
	pem, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fmt.Errorf("peers: ca_file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("peers: ca_file: %s has no PEM certificate", f.CA)
	}
	return roots, nil
}

// Check implements Identity.
func (Files) Check(*x509.Certificate) error { return nil }

// Security secures the streams with mutual TLS: each end proves by its certificate that it is a
// gateway. Names and addresses are not checked, because gateways come and go.
type Security struct{ server, client *tls.Config }

// verifyTimeout bounds the requests to Consul during a handshake.
const verifyTimeout = 10 * time.Second

// Secure returns the TLS configuration for an identity.
func Secure(i Identity) *Security {
	verify := func(s tls.ConnectionState) error {
		ctx, cancel := context.WithTimeout(context.Background(), verifyTimeout)
		defer cancel()
		return verify(ctx, i, s.PeerCertificates, time.Now())
	}
	return &Security{
		server: &tls.Config{
			MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert, VerifyConnection: verify,
			NextProtos: []string{"h2"},
			// An expired certificate is presented as it is: the other end reports the error.
			GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
				return i.Certificate(h.Context())
			},
		},
		client: &tls.Config{
			// VerifyConnection replaces the check by host name.
			MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, VerifyConnection: verify,
			NextProtos: []string{"h2"},
			GetClientCertificate: func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
				own, err := i.Certificate(r.Context())
				if err != nil {
					return nil, err
				}
				return own, lasts("this gateway", own.Leaf, time.Now())
			},
		},
	}
}

// verify checks the certificates of the other end.
func verify(ctx context.Context, i Identity, given []*x509.Certificate, now time.Time) error {
	if len(given) == 0 {
		return errors.New("peers: the other gateway sent no certificate")
	}
	if err := lasts("the other gateway", given[0], now); err != nil {
		return err
	}
	between := x509.NewCertPool()
	for _, c := range given[1:] {
		between.AddCert(c)
	}
	for _, fresh := range []bool{false, true} {
		roots, err := i.Roots(ctx, fresh)
		if err != nil {
			return err
		}
		_, err = given[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, CurrentTime: now})
		switch {
		case err == nil:
			return i.Check(given[0])
		case fresh || !errors.As(err, new(x509.UnknownAuthorityError)):
			return fmt.Errorf("peers: cannot verify the certificate of the other gateway: %w", err)
		}
	}
	return nil
}

// lasts returns an error for a certificate that is not valid now. The text does not depend on the
// current time, so that the same error is logged only once.
func lasts(whose string, c *x509.Certificate, now time.Time) error {
	switch {
	case c == nil:
		return nil
	case now.After(c.NotAfter):
		return fmt.Errorf("peers: the certificate of %s expired at %s: renew it", whose,
			c.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(c.NotBefore):
		return fmt.Errorf("peers: the certificate of %s is not valid before %s: are the clocks of both hosts right?",
			whose, c.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}
