package strategy

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/autoscaler-plugin/demand"
	"aliquot.example/autoscaler-plugin/guard"
	"aliquot.example/autoscaler-plugin/settings"
	"aliquot.example/internal/api"
	"aliquot.example/internal/learned"
	"aliquot.example/internal/scale"
)

// The settings that locate the gateways, as in aliquot-apm.
const (
	gatewayService   = "gateway_service"
	gatewayAddresses = "gateways"
	ratesPrefix      = "rates_prefix"
)

// gateways tells gateways how many replicas must stay awake, and reads arrivals, outcomes and
// curves.
type gateways struct {
	consul *consul.Client // nil if err is set
	err    error          // not fatal: only policies that use sleep or an objective need Consul here
	fixed  []string
	demand *demand.Gateways
}

// staleAfter is the maximum age of a gateway's newest second, the default of aliquot-apm.
const staleAfter = 10 * time.Second

func newGateways(config map[string]string) *gateways {
	g := &gateways{}
	for _, address := range strings.Split(config[gatewayAddresses], ",") {
		if address = strings.TrimSpace(address); address != "" {
			g.fixed = append(g.fixed, address)
		}
	}
	g.consul, g.err = settings.Consul(config)
	g.demand = &demand.Gateways{
		Service: cmp.Or(config[gatewayService], api.GatewayService),
		Rates:   cmp.Or(config[ratesPrefix], learned.RatesPrefix),
		HTTP:    http.DefaultClient, StaleAfter: staleAfter, Fixed: g.fixed,
	}
	if g.fixed == nil {
		g.demand.Consul = g.consul
	}
	return g
}

// history returns the arrivals, the demand and the outcomes of a service.
func (g *gateways) history(ctx context.Context, service string, from, to time.Time) (demand.History, error) {
	if g.fixed == nil && g.err != nil {
		return demand.History{}, fmt.Errorf("consul: %w", g.err)
	}
	return g.demand.History(ctx, demand.Span{Service: service, From: from, To: to})
}

// kv returns the Consul client that curves are read with.
func (g *gateways) kv() (*consul.Client, error) {
	if g.err != nil {
		return nil, fmt.Errorf("consul: %w", g.err)
	}
	return g.consul, nil
}

// addresses returns the admin listeners of healthy gateways.
func (g *gateways) addresses(ctx context.Context) ([]string, error) {
	if g.fixed != nil {
		return g.fixed, nil
	}
	if g.err != nil {
		return nil, fmt.Errorf("consul: %w", g.err)
	}
	entries, meta, err := g.consul.Health().Service(g.demand.Service, "", true,
		(&consul.QueryOptions{}).WithContext(ctx))
	if err = settings.Whole(meta, err); err != nil {
		return nil, fmt.Errorf("gateways cannot be looked up in Consul: %w", err)
	}
	var out []string
	for _, e := range entries {
		if admin := e.Service.Meta[api.MetaAdmin]; admin != "" {
			out = append(out, admin)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no healthy gateway is registered in Consul as %q", g.demand.Service)
	}
	return out, nil
}

// setAwake tells every gateway how many replicas of a class must stay awake for the next minute.
func (g *gateways) setAwake(ctx context.Context, service string, a api.Awake) error {
	addresses, err := g.addresses(ctx)
	if err != nil {
		return err
	}
	body, err := json.Marshal(a)
	if err != nil {
		return err
	}
	errs := make([]error, len(addresses))
	var calls sync.WaitGroup
	for i, admin := range addresses {
		calls.Go(func() {
			errs[i] = put(ctx, fmt.Sprintf("http://%s/v1/services/%s/awake", admin, url.PathEscape(service)), body)
		})
	}
	calls.Wait()
	return errors.Join(errs...)
}

func put(ctx context.Context, target string, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, target, bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, 300))
	switch res.StatusCode {
	case http.StatusNoContent, http.StatusNotFound: // 404: another gateway serves it
		return nil
	}
	return fmt.Errorf("%s answers %s: %s", target, res.Status, strings.TrimSpace(string(text)))
}

// keepAwake sends the number of replicas that must stay awake to the gateways. If it fails, no replica
// is put to sleep, which only loses the savings.
func (p *Plugin) keepAwake(check check, c scale.Config, awake int) {
	p.mu.Lock()
	gateways := p.gateways
	p.mu.Unlock()
	var err error
	switch {
	case check.query == nil:
		err = fmt.Errorf("sleep needs a query of aliquot-apm, which names the service")
	case gateways == nil:
		err = errors.New("the plugin is not configured yet")
	default:
		a := api.Awake{Replicas: awake}
		if len(c.Classes) > 1 {
			a.Class = c.Classes[c.Own].Name
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		err = guard.Plain(gateways.setAwake(ctx, check.query.Service, a))
		cancel()
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	if p.silent.Changed(check.Query, text) && text != "" {
		p.log.Warn("cannot tell the gateways which replicas may sleep", "query", check.Query, "error", text)
	}
}
