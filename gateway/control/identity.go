package control

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	consul "github.com/hashicorp/consul/api"

	"aliquot/gateway/config"
)

// Identity is the gateway's identity in Consul's service mesh: a leaf certificate that
// the agent keeps fresh.
type Identity struct {
	Client *consul.Client
	Config *config.Consul
}

// Certificate is that of peers.Identity.
func (i *Identity) Certificate(ctx context.Context) (*tls.Certificate, error) {
	q, err := i.options(ctx)
	if err != nil {
		return nil, err
	}
	leaf, _, err := i.Client.Agent().ConnectCALeaf(i.Config.Service, q)
	if err != nil {
		return nil, fmt.Errorf("peers: Consul gives no certificate for service %s: %w", i.Config.Service, err)
	}
	pair, err := tls.X509KeyPair([]byte(leaf.CertPEM), []byte(leaf.PrivateKeyPEM))
	return &pair, err
}

// Roots is that of peers.Identity.
func (i *Identity) Roots(ctx context.Context) (*x509.CertPool, error) {
	q, err := i.options(ctx)
	if err != nil {
		return nil, err
	}
	list, _, err := i.Client.Agent().ConnectCARoots(q)
	if err != nil {
		return nil, fmt.Errorf("peers: Consul gives no roots: %w", err)
	}
	roots := x509.NewCertPool()
	for _, r := range list.Roots {
		roots.AppendCertsFromPEM([]byte(r.RootCertPEM))
	}
	return roots, nil
}

func (i *Identity) options(ctx context.Context) (*consul.QueryOptions, error) {
	token, err := i.Config.Token.Read()
	if err != nil {
		return nil, err
	}
	return (&consul.QueryOptions{Token: token}).WithContext(ctx), nil
}

// Check is that of peers.Identity: a gateway has the name of the gateways' service.
func (i *Identity) Check(c *x509.Certificate) error {
	for _, u := range c.URIs {
		if u.Scheme == "spiffe" && strings.HasSuffix(u.Path, "/svc/"+i.Config.Service) {
			return nil
		}
	}
	return errors.New("peers: the other end's certificate is not one of service " + i.Config.Service)
}
