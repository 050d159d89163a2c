// Package apm is the Nomad Autoscaler's source of demand: the requests that
// Aliquot's gateways hold and serve.
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

	"aliquot/autoscaler-plugin/coldstart"
	"aliquot/autoscaler-plugin/guard"
	"aliquot/autoscaler-plugin/speed"
	"aliquot/internal/scale"
)

// Name of the plugin; the file name of its program is the same.
const Name = "aliquot-apm"

// Plugin answers the agent's RPCs. What it keeps between two of them only helps
// while Consul is away: nothing is decided by it that a restart would change.
type Plugin struct {
	log hclog.Logger

	mu      sync.RWMutex
	source  source // nil before SetConfig
	timeout time.Duration
	// observer learns cold starts; nil without Consul.
	observer *coldstart.Observer
	// speeds is what is known of hardware classes, which the gateways publish as
	// rates under a prefix in Consul; nil where the settings switch it off.
	speeds *speed.Reader
	rates  string
	// doubts is what was last said of each service's, so that it is said once.
	doubts map[string]string
	// unfollowed is the services of which it was said that measured speeds cannot be
	// brought into force.
	unfollowed map[string]bool
}

// New returns the plugin; SetConfig must follow.
func New(log hclog.Logger) *Plugin {
	return &Plugin{log: log, doubts: map[string]string{}, unfollowed: map[string]bool{}}
}

// PluginInfo names the plugin.
func (p *Plugin) PluginInfo() (*base.PluginInfo, error) {
	return &base.PluginInfo{Name: Name, PluginType: sdk.PluginTypeAPM}, nil
}

// SetConfig reads the plugin's settings, see docs/configuration.md.
func (p *Plugin) SetConfig(settings map[string]string) (err error) {
	defer guard.Recover(p.log, "SetConfig", &err)
	c, err := readConfig(settings)
	if err != nil {
		return fmt.Errorf("%s: %w", Name, err)
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute}}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timeout, p.observer, p.rates = c.timeout, nil, c.rates
	if p.speeds, err = speed.NewReader(settings); err != nil {
		return fmt.Errorf("%s: %w", Name, err)
	}
	if c.prometheus != "" {
		p.source = &prometheus{address: c.prometheus, step: c.step, staleAfter: c.staleAfter, http: client, token: c.prometheusToken}
		return nil
	}
	g := &gateways{service: c.gatewayService, rates: c.rates, http: client, staleAfter: c.staleAfter, fixed: c.gateways}
	if g.fixed == nil {
		if g.consul, err = guard.Consul(settings); err != nil {
			return fmt.Errorf("%s: consul: %w", Name, err)
		}
		if p.observer, err = coldstart.NewObserver(g.consul, settings); err != nil {
			return fmt.Errorf("%s: %w", Name, err)
		}
	}
	p.source = g
	return nil
}

// instant is how far back a query without a window looks for its one value.
const instant = 5 * time.Second

// longest is the longest window that is asked for.
const longest = 24 * time.Hour

// Query returns one value per second over the time range, oldest first: 0 while
// the service is idle. It fails when the demand is not known: an empty answer
// would mean the same to the agent.
func (p *Plugin) Query(text string, within sdk.TimeRange) (metrics sdk.TimestampedMetrics, err error) {
	defer guard.Recover(p.log, "Query", &err)
	q, err := ParseQuery(text)
	if err != nil {
		return nil, fmt.Errorf("query %q, %w", text, err)
	}
	p.mu.RLock()
	source, timeout, observer, speeds, rates := p.source, p.timeout, p.observer, p.speeds, p.rates
	p.mu.RUnlock()
	if source == nil {
		return nil, errors.New(Name + " is not configured yet")
	}
	if _, ok := source.(*prometheus); ok && q.Metric == Tokens {
		return nil, fmt.Errorf("query %q: Prometheus does not know the tokens in flight: ask the gateways, without prometheus_address", text)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	from := within.From
	if within.To.Sub(from) < instant {
		from = within.To.Add(-instant)
	}
	if within.To.Sub(from) > longest {
		return nil, fmt.Errorf("query %q has a window of %s: want at most %s", text, within.To.Sub(from), longest)
	}
	h, err := source.history(ctx, q.Service, from, within.To)
	if err != nil {
		return nil, guard.Plain(fmt.Errorf("demand of service %q: %w", q.Service, err))
	}
	p.say(q.Service, h)
	if observer != nil {
		observer.Observe(q.Service, within.To, p.log)
	}
	if within.To.Sub(within.From) < instant {
		h = h.since(within.To.Add(longest))
	}
	if q.Metric == Load {
		doc, err := p.speedsOf(ctx, speeds, rates, q, within.To)
		if err != nil {
			return nil, err
		}
		// The strategy looks up the same moment: that of the last value.
		at := time.Unix(h.first+int64(len(h.seconds)-1), 0)
		inForce, _ := doc.At(at)
		q.Classes = scale.WithSlots(scale.WithSpeeds(q.Classes, inForce), doc.SlotsAt(at))
	}
	return q.metrics(h), nil
}

// speedsOf reads the speeds in force, after those that were measured anew are
// written down. What hinders that is said once: the old speeds stay in force.
func (p *Plugin) speedsOf(ctx context.Context, speeds *speed.Reader, rates string, q Query, now time.Time) (speed.Document, error) {
	written, err := speeds.Follow(ctx, q.Service, rates, q.Classes, now)
	p.mu.Lock()
	switch {
	case err != nil && !p.unfollowed[q.Service]:
		p.unfollowed[q.Service] = true
		p.log.Warn("speeds that were measured anew are not counted with", "service", q.Service, "error", guard.Plain(err))
	case written != nil:
		p.unfollowed[q.Service] = false
		p.log.Info("speeds were measured anew", "service", q.Service, "requests_per_second_and_slot", fmt.Sprint(written.Rates), "in_force_from", written.Since)
	}
	p.mu.Unlock()
	return speeds.Read(ctx, q.Service)
}

// say logs once why a service's counts cannot shrink, and when they can again.
func (p *Plugin) say(service string, h history) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.doubts[service] == h.doubt {
		return
	}
	p.doubts[service] = h.doubt
	if h.doubt == "" {
		p.log.Info("counts can shrink again", "service", service)
		return
	}
	p.log.Warn("counts can grow but not shrink: a part of the demand is not known", "service", service, "no_answer_from", h.doubt, "error", strings.ReplaceAll(h.why.Error(), "\n", "; "))
}

// QueryMultiple is Query as a list of one; the open-source agent does not ask it.
func (p *Plugin) QueryMultiple(text string, within sdk.TimeRange) ([]sdk.TimestampedMetrics, error) {
	metrics, err := p.Query(text, within)
	if err != nil {
		return nil, err
	}
	return []sdk.TimestampedMetrics{metrics}, nil
}

func (q *Query) metrics(h history) sdk.TimestampedMetrics {
	out := make(sdk.TimestampedMetrics, len(h.seconds))
	for i, s := range h.seconds {
		out[i] = sdk.TimestampedMetric{Timestamp: time.Unix(h.first+int64(i), 0), Value: q.value(s)}
	}
	return out
}

func (q *Query) value(s second) float64 {
	switch {
	case q.Metric == Queued:
		return s.queued
	case q.Metric == Active && q.Class != "":
		return s.class[q.Class]
	case q.Metric == Active:
		return s.active
	case q.Metric == Tokens && q.Class != "":
		return s.tokens.class[q.Class]
	case q.Metric == Tokens:
		return s.tokens.queued + s.tokens.active
	case q.Metric == Load:
		return q.load(s)
	case q.Class != "":
		return scale.Split(s.queued+s.active, q.Utilization, q.Classes)[q.own()]
	}
	return s.queued + s.active
}

// load of the service, or the part of it that one class is planned for, in slots of
// that class.
func (q *Query) load(s second) float64 {
	load := scale.Load(s.queued, s.active, s.class, q.Classes)
	if q.Class == "" {
		return load
	}
	return scale.Split(load, q.Utilization, q.Classes)[q.own()] / q.Classes[q.own()].Speed
}
