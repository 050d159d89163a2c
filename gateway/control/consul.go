// Package control writes to Consul and Nomad for the gateway: learned rates, where it
// listens, who owns a service, and the start of a service.
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

// NewConsul returns a client. What the configuration leaves out comes from the
// usual CONSUL_* environment.
func NewConsul(c *config.Consul) (*consul.Client, error) {
	conf := consul.DefaultConfig()
	// Tokens are read for each request.
	conf.Token, conf.TokenFile = "", ""
	// A question to an agent that is cut off fails soon, and is asked again when it is back.
	conf.Transport.DialContext = (&net.Dialer{Timeout: dialWithin, Control: peers.Bound}).DialContext
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

// dialWithin bounds how long a connection to Consul takes to open.
const dialWithin = 2 * time.Second

// Rates is the learned rates in Consul KV, one key per service and gateway.
type Rates struct {
	Client  *consul.Client
	Config  *config.Consul
	Gateway string // the gateway's ID, the last part of its keys
}

// Load returns what is known of a service by what all gateways published and by profiles,
// see learned.Known. It removes the keys of gateways that are gone for so long that nobody believes them:
// every update of the gateways' job leaves some behind.
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
			// One that cannot be removed is left to the next gateway that starts.
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

// published trusts all that gateways published, since it is only what a queue begins with.
func published(samples float64, _ time.Duration) bool { return samples > 0 }

// Profiles returns a figure for each service with profiles, which changes when one of them
// does.
func (r *Rates) Profiles(ctx context.Context) (map[string]uint64, error) {
	token, err := r.Config.Token.Read()
	if err != nil {
		return nil, err
	}
	listed, err := profilekv.List(r.Client, "", (&consul.QueryOptions{Token: token}).WithContext(ctx))
	return listed.Version, err
}

// Starts reads what the autoscaler learned of a service's starts.
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

// Save writes this gateway's key of a service.
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

// seed is a published curve as a queue takes it for what it assumes.
func seed(slices, total int, c learned.Curve) dispatch.Curve {
	return dispatch.Curve{
		Slices: slices, Total: total, Start: c.Start, Prefill: c.Prefill, Growth: c.Growth, A: c.A, B: c.B, C: c.C,
		Prompt: c.Prompt, Output: c.Output, KV: int(c.KV), Slots: int(c.Slots), Rate: c.Rate, Samples: c.Samples,
	}
}

// curve is a learned curve as it is published.
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
	Peers   string // where it listens for other gateways; "" for nowhere
}

// Register announces the public listener as the service's address and the admin
// listener in its meta. A listener on all addresses is announced by the address
// of the local Consul agent.
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

// reachable replaces an unspecified host by the agent's.
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
		return "", fmt.Errorf("the Consul agent does not tell its address; set listen.address to a concrete one")
	}
	return net.JoinHostPort(agent, port), nil
}

// Deregister takes the service back.
func (r *Registrar) Deregister(ctx context.Context) error {
	token, err := r.Config.Token.Read()
	if err != nil {
		return err
	}
	return r.Client.Agent().ServiceDeregisterOpts(r.Gateway, (&consul.QueryOptions{Token: token}).WithContext(ctx))
}
