// Package apm is the Nomad Autoscaler's source of demand: the requests that Aliquot's gateways
// queue and serve, and the slices and nodes that jobs need.
package apm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/plugins/base"
	"github.com/hashicorp/nomad-autoscaler/sdk"
	nomadconfig "github.com/hashicorp/nomad-autoscaler/sdk/helper/nomad"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/autoscaler-plugin/changes"
	"aliquot.example/autoscaler-plugin/coldstart"
	"aliquot.example/autoscaler-plugin/demand"
	"aliquot.example/autoscaler-plugin/guard"
	"aliquot.example/autoscaler-plugin/settings"
	"aliquot.example/autoscaler-plugin/speed"
	"aliquot.example/internal/pack"
	"aliquot.example/internal/quantile"
	"aliquot.example/internal/query"
	"aliquot.example/internal/scale"
)

// Name is the name of the plugin and of its program file.
const Name = "aliquot-apm"

// Plugin answers the agent's RPCs. The state that it keeps between RPCs only bridges an outage of
// Consul. A restart, which loses this state, changes no decision.
type Plugin struct {
	log hclog.Logger

	mu      sync.RWMutex
	source  demand.Source // nil before SetConfig
	timeout time.Duration
	// observer learns cold starts. It is nil without Consul.
	observer *coldstart.Observer
	// speeds reads the speeds of hardware classes, nil if the settings disable them. rates is the
	// prefix in Consul KV under which the gateways publish their rates.
	speeds *speed.Reader
	rates  string
	// nomad reports the slices that jobs hold and wait for.
	nomad *nomad.Client

	// blockedReasons is, by service, why its counts cannot shrink. speedsFailed is whether newly measured
	// speeds could not be brought into force.
	blockedReasons changes.Seen[string, string]
	speedsFailed   changes.Seen[string, bool]
	// needs is the last result of each query for nodes.
	needs changes.Seen[string, pack.Need]
}

// New returns a plugin. Call SetConfig before any query.
func New(log hclog.Logger) *Plugin {
	return &Plugin{log: log}
}

// PluginInfo returns the plugin's name and type.
func (p *Plugin) PluginInfo() (*base.PluginInfo, error) {
	return &base.PluginInfo{Name: Name, PluginType: sdk.PluginTypeAPM}, nil
}

// SetConfig reads the plugin's settings; see docs/configuration.md.
func (p *Plugin) SetConfig(config map[string]string) (err error) {
	defer guard.Recover(p.log, "SetConfig", &err)
	c, err := readConfig(config)
	if err != nil {
		return fmt.Errorf("%s: %w", Name, err)
	}
	cluster, err := nomad.NewClient(nomadconfig.ConfigFromNamespacedMap(config))
	if err != nil {
		return fmt.Errorf("%s: nomad: %w", Name, err)
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute}}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timeout, p.observer, p.rates, p.nomad = c.timeout, nil, c.rates, cluster
	if p.speeds, err = speed.NewReader(config); err != nil {
		return fmt.Errorf("%s: %w", Name, err)
	}
	if c.prometheus != "" {
		p.source = &prometheus{address: c.prometheus, step: c.step, staleAfter: c.staleAfter, http: client,
			token: c.prometheusToken}
		return nil
	}
	g := &demand.Gateways{Service: c.gatewayService, Rates: c.rates, HTTP: client, StaleAfter: c.staleAfter,
		Fixed: c.gateways}
	if g.Fixed == nil {
		if g.Consul, err = settings.Consul(config); err != nil {
			return fmt.Errorf("%s: consul: %w", Name, err)
		}
		if p.observer, err = coldstart.NewObserver(g.Consul, config); err != nil {
			return fmt.Errorf("%s: %w", Name, err)
		}
	}
	p.source = g
	return nil
}

// instant is how far back a query without a window looks for its one value.
const instant = 5 * time.Second

// maxWindow is the longest window of a query.
const maxWindow = 24 * time.Hour

// Query returns one value per second over the time range, oldest first, and 0 while the service is
// idle. It fails if the demand is unknown, because the agent treats an empty answer the same way.
func (p *Plugin) Query(text string, within sdk.TimeRange) (metrics sdk.TimestampedMetrics, err error) {
	defer guard.Recover(p.log, "Query", &err)
	q, err := query.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("query %q, %w", text, err)
	}
	p.mu.RLock()
	source, timeout, observer, speeds, rates, cluster := p.source, p.timeout, p.observer, p.speeds, p.rates, p.nomad
	p.mu.RUnlock()
	if source == nil {
		return nil, errors.New(Name + " is not configured yet")
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if q.OfSlices() {
		return p.slices(ctx, cluster, text, q)
	}
	if _, ok := source.(*prometheus); ok && q.OfAnswers() {
		return nil, fmt.Errorf("query %q: %s is not read from Prometheus: ask the gateways, without prometheus_address",
			text, q.Metric)
	}
	from := within.From
	if within.To.Sub(from) < instant {
		from = within.To.Add(-instant)
	}
	if within.To.Sub(from) > maxWindow {
		return nil, fmt.Errorf("query %q has a window of %s: want at most %s", text, within.To.Sub(from), maxWindow)
	}
	h, err := source.History(ctx, demand.Span{Service: q.Service, From: from, To: within.To,
		Times: q.Metric == query.Above})
	if err != nil {
		return nil, guard.Plain(fmt.Errorf("demand of service %q: %w", q.Service, err))
	}
	if q.OfAnswers() && q.Metric != query.Tokens {
		h = h.Answers()
	}
	p.logChange(q.Service, h)
	if observer != nil {
		observer.Observe(q.Service, within.To, p.log)
	}
	if within.To.Sub(within.From) < instant {
		h = h.Since(within.To.Add(maxWindow))
	}
	if q.Metric == query.Load {
		doc, err := p.speedsOf(ctx, speeds, rates, q, within.To)
		if err != nil {
			return nil, err
		}
		// Use the time of the last value, as the strategy does.
		at := time.Unix(h.First+int64(len(h.Seconds)-1), 0)
		inForce, _ := doc.At(at)
		q.Classes = scale.WithSlots(scale.WithSpeeds(q.Classes, inForce), doc.SlotsAt(at))
	}
	return metricsOf(&q, h), nil
}

// speedsOf publishes newly measured speeds and returns those in force. If it cannot publish them,
// the old speeds remain in force, and it logs this once.
func (p *Plugin) speedsOf(ctx context.Context, speeds *speed.Reader, rates string, q query.Query,
	now time.Time) (speed.Document, error) {
	written, err := speeds.Follow(ctx, q.Service, rates, q.Classes, now)
	switch {
	case err != nil && p.speedsFailed.Changed(q.Service, true):
		p.log.Warn("cannot publish the newly measured speeds, the old ones stay in force", "service", q.Service,
			"error", guard.Plain(err))
	case written != nil:
		p.speedsFailed.Changed(q.Service, false)
		p.log.Info("new speeds were measured", "service", q.Service, "requests_per_second_and_slot",
			fmt.Sprint(written.Rates), "in_force_from", written.Since)
	}
	return speeds.Read(ctx, q.Service)
}

// logChange logs a change in why a service's counts cannot shrink, and when they can again.
func (p *Plugin) logChange(service string, h demand.History) {
	if !p.blockedReasons.Changed(service, h.NoAnswer) {
		return
	}
	if h.NoAnswer == "" {
		p.log.Info("counts can shrink again", "service", service)
		return
	}
	p.log.Warn("counts can grow but not shrink: a part of the demand is not known", "service", service,
		"no_answer_from", h.NoAnswer, "error", strings.ReplaceAll(h.Why.Error(), "\n", "; "))
}

// QueryMultiple is Query with a list of one result. The open-source agent does not call it.
func (p *Plugin) QueryMultiple(text string, within sdk.TimeRange) ([]sdk.TimestampedMetrics, error) {
	metrics, err := p.Query(text, within)
	if err != nil {
		return nil, err
	}
	return []sdk.TimestampedMetrics{metrics}, nil
}

func metricsOf(q *query.Query, h demand.History) sdk.TimestampedMetrics {
	out := make(sdk.TimestampedMetrics, len(h.Seconds))
	for i, s := range h.Seconds {
		out[i] = sdk.TimestampedMetric{Timestamp: time.Unix(h.First+int64(i), 0), Value: value(q, &s)}
	}
	return out
}

func value(q *query.Query, s *demand.Second) float64 {
	switch {
	case q.Metric == query.Queued:
		return s.Queued
	case q.Metric == query.Active && q.Class != "":
		return s.Class[q.Class]
	case q.Metric == query.Active:
		return s.Active
	case q.Metric == query.Tokens && q.Class != "":
		return s.Tokens.Class[q.Class]
	case q.Metric == query.Tokens:
		return s.Tokens.Queued + s.Tokens.Active
	case q.Metric == query.Arriving:
		return s.Arrived
	case q.Metric == query.Attained:
		return share(s.Met, s.Met+s.Missed, 1)
	case q.Metric == query.Above:
		return shareAbove(q, s)
	case q.Metric == query.Load:
		return load(q, s)
	case q.Class != "":
		return scale.Split(s.Queued+s.Active, q.Utilization, q.Classes)[q.Own()]
	}
	return s.Queued + s.Active
}

// share returns part divided by of, or empty if of is 0.
func share(part, of, empty float64) float64 {
	if of == 0 {
		return empty
	}
	return part / of
}

// shareAbove returns the part of the requests that ended in a second and took longer than the query's
// limit.
func shareAbove(q *query.Query, s *demand.Second) float64 {
	of := map[string]*quantile.Sketch{query.TTFT: &s.Times.TTFT, query.TPOT: &s.Times.TPOT,
		query.E2E: &s.Times.E2E}[q.Of]
	return share(of.Above(q.Limit.Seconds()), of.Count(), 0)
}

// load returns the load of the service. For a query with a class it returns the part that is
// planned for this class, in slots of the class.
func load(q *query.Query, s *demand.Second) float64 {
	load := scale.Load(s.Queued, s.Active, s.Class, q.Classes)
	if q.Class == "" {
		return load
	}
	return scale.Split(load, q.Utilization, q.Classes)[q.Own()] / q.Classes[q.Own()].Speed
}
