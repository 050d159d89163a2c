// Package peertest provides a certificate authority for tests of gateways that share queues.
package peertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// Authority is a certificate authority.
type Authority struct {
	root *x509.Certificate
	key  *ecdsa.PrivateKey
	der  []byte
}

// New returns an authority with a new key. Its root is valid for one hour.
func New() (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	return &Authority{root, key, der}, err
}

// Root is the authority's certificate in PEM.
func (a *Authority) Root() []byte { return encode("CERTIFICATE", a.der) }

// Sign returns a certificate that is valid until the given time, and its key, both in PEM. uri is a
// subject alternative name; "" for none.
func (a *Authority) Sign(until time.Time, uri string) (cert, key []byte, err error) {
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour),
		NotAfter: until}
	if uri != "" {
		u, err := url.Parse(uri)
		if err != nil {
			return nil, nil, err
		}
		c.URIs = []*url.URL{u}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.root, own.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	private, err := x509.MarshalECPrivateKey(own)
	return encode("CERTIFICATE", der), encode("EC PRIVATE KEY", private), err
}

// Files are the paths of a certificate, its key and the root.
type Files struct{ Cert, Key, CA string }

// Write writes a new certificate, its key and the root into dir. It replaces each file atomically.
func (a *Authority) Write(dir, name string, until time.Time) (Files, error) {
	f := Files{filepath.Join(dir, name+".pem"), filepath.Join(dir, name+"-key.pem"), filepath.Join(dir, name+"-ca.pem")}
	cert, key, err := a.Sign(until, "")
	return f, errors.Join(err, replace(f.Cert, cert), replace(f.Key, key), replace(f.CA, a.Root()))
}

func replace(path string, text []byte) error {
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
