// Package control connects the gateway to Consul and Nomad: it stores learned rates, registers the
// gateway, elects the owners of services, and starts task groups.
package control

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"strconv"
	"strings"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/gateway/config"
	"aliquot.example/gateway/peers"
	"aliquot.example/internal/api"
	"aliquot.example/internal/dispatch"
	"aliquot.example/internal/learned"
	"aliquot.example/internal/profilekv"
)

// NewConsul returns a client. The CONSUL_* variables replace what the configuration leaves out.
func NewConsul(c *config.Consul) (*consul.Client, error) {
	conf := consul.DefaultConfig()
	// Tokens are read for each request.
	conf.Token, conf.TokenFile = "", ""
	// Requests to an unreachable agent fail soon, so that they can be tried again.
	conf.Transport.DialContext = (&net.Dialer{Timeout: dialTimeout, Control: peers.Bound}).DialContext
	if c.Address != "" {
		conf.Address = c.Address
	}
	if c.Datacenter != "" {
		conf.Datacenter = c.Datacenter
	}
	if c.Namespace != "" {
		conf.Namespace = c.Namespace
	}
	return consul.NewClient(conf)
}

// dialTimeout is the timeout for connecting to Consul.
const dialTimeout = 2 * time.Second

// Rates reads and writes learned rates in Consul KV, with one key per service and gateway.
type Rates struct {
	Client  *consul.Client
	Config  *config.Consul
	Gateway string // the gateway's ID, the last part of its keys
}

// Load returns the rates of a service, merged from all gateways and profiles; see learned.Known. It
// removes the keys of gateways that are older than learned.Believed: every update of the gateways'
// job leaves some behind.
func (r *Rates) Load(ctx context.Context, service string) (map[string]dispatch.Rate, error) {
	token, err := r.Config.Token.Read()
	if err != nil {
		return nil, err
	}
	pairs, _, err := r.Client.KV().List(r.Config.Prefix+"/"+service+"/",
		(&consul.QueryOptions{Token: token}).WithContext(ctx))
	if err != nil {
		return nil, err
	}
	var known []learned.Rates
	for _, pair := range pairs {
		doc, _ := learned.ParseRates(pair.Value)
		if doc.Version != 0 && doc.Age(time.Now()) > learned.Believed {
			// Ignore errors: the next gateway that starts tries again.
			_, _, _ = r.Client.KV().DeleteCAS(pair, (&consul.WriteOptions{Token: token}).WithContext(ctx))
			continue
		}
		known = append(known, doc)
	}
	listed, err := profilekv.List(r.Client, service, (&consul.QueryOptions{Token: token}).WithContext(ctx))
	if err != nil {
		return nil, err
	}
	out := map[string]dispatch.Rate{}
	for class, m := range learned.Known(time.Now(), known, listed.Profiles[service], published) {
		if m.Rate > 0 {
			rate := dispatch.Rate{Rate: m.Rate, Slots: m.Slots, Samples: m.Samples}
			for key, c := range m.Tokens {
				if slices, total, ok := learned.ParseSlices(key); ok {
					rate.Curves = append(rate.Curves, seed(slices, total, c))
				}
			}
			out[class] = rate
		}
	}
	return out, nil
}

// published accepts all published rates, because a queue only starts with them.
func published(samples float64, _ time.Duration) bool { return samples > 0 }

// Profiles returns a number for each service with profiles. It changes when one of the profiles
// changes.
func (r *Rates) Profiles(ctx context.Context) (map[string]uint64, error) {
	token, err := r.Config.Token.Read()
	if err != nil {
		return nil, err
	}
	listed, err := profilekv.List(r.Client, "", (&consul.QueryOptions{Token: token}).WithContext(ctx))
	return listed.Version, err
}

// Starts reads the cold starts of a service that the autoscaler has learned.
func (r *Rates) Starts(ctx context.Context, service string) (map[string]api.ColdStart, error) {
	token, err := r.Config.Token.Read()
	if err != nil {
		return nil, err
	}
	pair, _, err := r.Client.KV().Get(learned.StartsKey(service), (&consul.QueryOptions{Token: token}).WithContext(ctx))
	if err != nil || pair == nil {
		return nil, err
	}
	doc, err := learned.ParseStarts(pair.Value)
	if err != nil {
		return nil, err
	}
	out := map[string]api.ColdStart{}
	for class, c := range doc.ByClass(time.Now()) {
		out[class] = api.ColdStart(c)
	}
	return out, nil
}

// Save writes this gateway's rates of a service.
func (r *Rates) Save(ctx context.Context, service string, rates map[string]dispatch.Rate, now time.Time) error {
	token, err := r.Config.Token.Read()
	if err != nil {
		return err
	}
	doc := learned.NewRates(now)
	for class, rate := range rates {
		one := learned.Class{Rate: rate.Rate, Slots: rate.Slots, Samples: rate.Samples, Replica: rate.Rate * rate.Slots}
		for _, c := range rate.Curves {
			if one.Tokens == nil {
				one.Tokens = map[string]learned.Curve{}
			}
			one.Tokens[learned.SlicesOf(c.Slices, c.Total)] = curve(c)
		}
		doc.Classes[class] = one
	}
	value, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	key := strings.Join([]string{r.Config.Prefix, service, r.Gateway}, "/")
	_, err = r.Client.KV().Put(&consul.KVPair{Key: key, Value: value},
		(&consul.WriteOptions{Token: token}).WithContext(ctx))
	return err
}

// seed converts a published curve for a queue.
func seed(slices, total int, c learned.Curve) dispatch.Curve {
	return dispatch.Curve{
		Slices: slices, Total: total, Start: c.Start, Prefill: c.Prefill, Growth: c.Growth, A: c.A, B: c.B, C: c.C,
		Prompt: c.Prompt, Output: c.Output, KV: int(c.KV), Slots: int(c.Slots), Rate: c.Rate, Samples: c.Samples,
	}
}

// curve converts a queue's curve for publication.
func curve(c dispatch.Curve) learned.Curve {
	return learned.Curve{
		Start: c.Start, Prefill: c.Prefill, Growth: c.Growth, A: c.A, B: c.B, C: c.C,
		Prompt: c.Prompt, Output: c.Output, KV: float64(c.KV), Slots: float64(c.Slots), Rate: c.Rate,
		Samples: c.Samples,
	}
}

// Registrar registers the gateway as a Consul service.
type Registrar struct {
	Client  *consul.Client
	Config  *config.Consul
	Gateway string
	Peers   string // address for other gateways, "" for none
}

// Register registers the service with the address of the public listener, and with the admin
// listener in its meta. If a listener listens on all addresses, Register uses the address of the
// local Consul agent.
func (r *Registrar) Register(ctx context.Context, public, admin string) error {
	token, err := r.Config.Token.Read()
	if err != nil {
		return err
	}
	public, err = r.reachable(ctx, public, token)
	if err != nil {
		return err
	}
	if admin, err = r.reachable(ctx, admin, token); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(public)
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	meta := map[string]string{api.MetaAdmin: admin}
	if r.Peers != "" {
		meta[MetaPeers] = r.Peers
	}
	known, _, err := r.Client.Agent().Service(r.Gateway, (&consul.QueryOptions{Token: token}).WithContext(ctx))
	if err == nil && known.Service == r.Config.Service && known.Address == host && known.Port == number &&
		maps.Equal(known.Meta, meta) {
		return nil
	}
	return r.Client.Agent().ServiceRegisterOpts(&consul.AgentServiceRegistration{
		ID: r.Gateway, Name: r.Config.Service, Address: host, Port: number, Meta: meta,
		Check: &consul.AgentServiceCheck{
			Name: "ready", HTTP: "http://" + admin + "/v1/ready", Interval: "2s", Timeout: "1s",
			Status: consul.HealthPassing, DeregisterCriticalServiceAfter: "5m",
		},
	}, consul.ServiceRegisterOpts{Token: token}.WithContext(ctx))
}

// reachable replaces an unspecified host with the agent's address.
func (r *Registrar) reachable(ctx context.Context, address, token string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsUnspecified() {
		return address, nil
	}
	// Agent().Self takes no token.
	var self struct{ Member struct{ Addr string } }
	if _, err := r.Client.Raw().Query("/v1/agent/self", &self,
		(&consul.QueryOptions{Token: token}).WithContext(ctx)); err != nil {
		return "", err
	}
	agent := self.Member.Addr
	if agent == "" {
		return "", fmt.Errorf("the Consul agent does not report its address: set listen.address to a specific address")
	}
	return net.JoinHostPort(agent, port), nil
}

// Deregister removes the service from Consul.
func (r *Registrar) Deregister(ctx context.Context) error {
	token, err := r.Config.Token.Read()
	if err != nil {
		return err
	}
	return r.Client.Agent().ServiceDeregisterOpts(r.Gateway, (&consul.QueryOptions{Token: token}).WithContext(ctx))
}
