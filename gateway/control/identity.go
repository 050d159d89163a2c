package control

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/gateway/config"
)

// Identity is the gateway's identity in Consul's service mesh: a leaf certificate that the agent
// renews. It caches the agent's last answers, so that gateways can connect to each other while the
// agent does not answer.
type Identity struct {
	Client *consul.Client
	Config *config.Consul

	mu    sync.Mutex
	leaf  *tls.Certificate
	roots *x509.CertPool
}

// promptly is the timeout of a request to the agent if its last answer can be used instead.
const promptly = 250 * time.Millisecond

// Certificate implements peers.Identity.
func (i *Identity) Certificate(ctx context.Context) (*tls.Certificate, error) {
	known := i.known(time.Now())
	if known != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, promptly)
		defer cancel()
	}
	fresh, err := i.askLeaf(ctx)
	if err != nil && known != nil {
		return known, nil
	}
	return fresh, err
}

// known returns the last leaf certificate, nil if it has expired.
func (i *Identity) known(now time.Time) *tls.Certificate {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.leaf == nil || now.After(i.leaf.Leaf.NotAfter) {
		return nil
	}
	return i.leaf
}

func (i *Identity) askLeaf(ctx context.Context) (*tls.Certificate, error) {
	q, err := i.options(ctx)
	if err != nil {
		return nil, err
	}
	leaf, _, err := i.Client.Agent().ConnectCALeaf(i.Config.Service, q)
	if err != nil {
		return nil, fmt.Errorf("peers: cannot get a certificate for service %s from Consul: %w", i.Config.Service, err)
	}
	pair, err := tls.X509KeyPair([]byte(leaf.CertPEM), []byte(leaf.PrivateKeyPEM))
	if err != nil {
		return nil, fmt.Errorf("peers: cannot use the certificate from Consul: %w", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.leaf = &pair
	return i.leaf, nil
}

// Roots implements peers.Identity.
func (i *Identity) Roots(ctx context.Context, fresh bool) (*x509.CertPool, error) {
	i.mu.Lock()
	known := i.roots
	i.mu.Unlock()
	if fresh || known == nil {
		return i.askRoots(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, promptly)
	defer cancel()
	if now, err := i.askRoots(ctx); err == nil {
		return now, nil
	}
	return known, nil
}

func (i *Identity) askRoots(ctx context.Context) (*x509.CertPool, error) {
	q, err := i.options(ctx)
	if err != nil {
		return nil, err
	}
	list, _, err := i.Client.Agent().ConnectCARoots(q)
	if err != nil {
		return nil, fmt.Errorf("peers: cannot get the root certificates from Consul: %w", err)
	}
	roots := x509.NewCertPool()
	for _, r := range list.Roots {
		roots.AppendCertsFromPEM([]byte(r.RootCertPEM))
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.roots = roots
	return roots, nil
}

func (i *Identity) options(ctx context.Context) (*consul.QueryOptions, error) {
	token, err := i.Config.Token.Read()
	if err != nil {
		return nil, err
	}
	return (&consul.QueryOptions{Token: token}).WithContext(ctx), nil
}

// Check implements peers.Identity. It accepts certificates of the gateways' service.
func (i *Identity) Check(c *x509.Certificate) error {
	for _, u := range c.URIs {
		if u.Scheme == "spiffe" && strings.HasSuffix(u.Path, "/svc/"+i.Config.Service) {
			return nil
		}
	}
	return errors.New("peers: the certificate of the other gateway is not for service " + i.Config.Service)
}
