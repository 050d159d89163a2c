// Package strategy is the Nomad Autoscaler's strategy for services behind
// Aliquot's gateways: counts that follow demand, never the current count.
package strategy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	consul "github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/plugins/base"
	"github.com/hashicorp/nomad-autoscaler/sdk"

	"aliquot/autoscaler-plugin/apm"
	"aliquot/autoscaler-plugin/coldstart"
	"aliquot/autoscaler-plugin/guard"
	"aliquot/autoscaler-plugin/speed"
	"aliquot/internal/scale"
)

// Name of the plugin; the file name of its program is the same.
const Name = "aliquot-strategy"

// Plugin answers the agent's RPCs.
type Plugin struct {
	log hclog.Logger

	mu sync.Mutex
	// consul holds learned cold starts; nil where the plugin's config switches
	// them off.
	consul *consul.Client
	// speeds is what is known of hardware classes; nil where it is switched off.
	speeds *speed.Reader
	// learned is the last that Consul said, by service, for the time that it is away.
	learned map[string]time.Duration
	// short is the cold start, by query, that was last said to make a window too short.
	short map[string]time.Duration
	// gateways receive how many replicas must stay awake; silent is the last reported
	// reason why they could not, by query.
	gateways *gateways
	silent   map[string]string
}

// New returns the plugin.
func New(log hclog.Logger) *Plugin {
	return &Plugin{log: log, learned: map[string]time.Duration{}, short: map[string]time.Duration{}, silent: map[string]string{}}
}

// PluginInfo names the plugin.
func (p *Plugin) PluginInfo() (*base.PluginInfo, error) {
	return &base.PluginInfo{Name: Name, PluginType: sdk.PluginTypeStrategy}, nil
}

// learn is the setting that switches learned cold starts off.
const learn = "learn_coldstart"

// SetConfig reads the plugin's settings, see docs/configuration.md.
func (p *Plugin) SetConfig(settings map[string]string) (err error) {
	defer guard.Recover(p.log, "SetConfig", &err)
	if err := guard.Known(settings, append([]string{learn, speed.Setting, gatewayService, gatewayAddresses}, guard.ConsulSettings...)...); err != nil {
		return fmt.Errorf("%s: %w", Name, err)
	}
	var client *consul.Client
	switch settings[learn] {
	case "", "true":
		if client, err = guard.Consul(settings); err != nil {
			return fmt.Errorf("%s: consul: %w", Name, err)
		}
	case "false":
	default:
		return fmt.Errorf("%s: %s is %q: want true or false", Name, learn, settings[learn])
	}
	speeds, err := speed.NewReader(settings)
	if err != nil {
		return fmt.Errorf("%s: %w", Name, err)
	}
	gateways := newGateways(settings)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.consul, p.speeds, p.gateways = client, speeds, gateways
	return nil
}

// Run decides the count. The agent tells it the demand and the count that the
// target reports, which with aliquot-target is the one that is set; everything
// else is in the strategy's settings, because the agent passes neither limits
// nor job. The answer is never nil: the agent's server would not survive that.
func (p *Plugin) Run(eval *sdk.ScalingCheckEvaluation, count int64) (_ *sdk.ScalingCheckEvaluation, err error) {
	defer guard.Recover(p.log, "Run", &err)
	c, learned, err := p.config(eval.Check)
	if err != nil {
		return nil, fmt.Errorf("check %q: %w", eval.Check.Name, err)
	}
	if window := c.Policy.Window(); eval.Check.QueryWindow < window {
		short := fmt.Errorf("check %q: query_window is %s: want at least %s, which is down_delay and stable_window; 15m lets peaks decay",
			eval.Check.Name, eval.Check.QueryWindow, window)
		if !learned {
			return nil, short
		}
		// A cold start that turned out longer must not stop counts from growing.
		p.warn(eval.Check.Query, c.Policy.ColdStart, short)
	}
	points := make([]scale.Point, len(eval.Metrics))
	for i, m := range eval.Metrics {
		points[i] = scale.Point{At: m.Timestamp, Value: m.Value}
	}
	series, err := scale.Series(points)
	if err != nil {
		return nil, fmt.Errorf("check %q: %w", eval.Check.Name, err)
	}
	age, err := p.measure(&c, eval.Check.Query, points[len(points)-1].At)
	if err != nil {
		return nil, fmt.Errorf("check %q: %w", eval.Check.Name, err)
	}
	d := c.Policy.Overlap(c.Policy.Decide(series, c.Classes, c.Own, int(count)), int(count), age)
	eval.Action = action(c, d, count)
	if c.Policy.Sleep > 0 {
		p.tell(eval.Check, c, d.Awake)
	}
	return eval, nil
}

// measure gives the classes the speeds that the query's demand is counted in, at
// the time of its last value, and says for how long they have been in force.
func (p *Plugin) measure(c *scale.Config, query string, at time.Time) (age time.Duration, err error) {
	const always = time.Duration(math.MaxInt64)
	q, err := apm.ParseQuery(query)
	if err != nil {
		// Another APM's query; its demand is in the unit of the speeds that are written.
		c.Classes = scale.WithSpeeds(c.Classes, nil)
		return always, nil
	}
	switch {
	case q.Metric == apm.Tokens:
		return 0, fmt.Errorf("the query counts tokens but the strategy plans in requests: ask for %q with slots=measured in classes, which follows from the tokens", "load service=… classes='…'")
	case q.Metric == apm.Load && q.Class == "":
	case slices.ContainsFunc(c.Classes, func(k scale.Class) bool { return k.Measured }):
		return 0, fmt.Errorf("classes have slots=measured but the query is not for their load: ask for load, as in %q", "load service=… classes='…'")
	case slices.ContainsFunc(c.Classes, func(k scale.Class) bool { return k.Speed != 1 }):
		return 0, fmt.Errorf("classes have speeds but the query counts every slot the same: ask for load, as in %q, or leave speed out", "load service=… classes='…'")
	case q.Metric == apm.Load && len(c.Classes) > 1:
		return 0, errors.New("the query is for one class's part of the load but the strategy has classes and splits by itself: leave class out of the query")
	default:
		return always, nil
	}
	if !slices.Equal(q.Classes, c.Classes) {
		return 0, errors.New("the query and the strategy have different classes: give both the same text, because the query counts in slots of the fastest class and the strategy plans in them")
	}
	p.mu.Lock()
	speeds := p.speeds
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	doc, err := speeds.Read(ctx, q.Service)
	if err != nil {
		return 0, err
	}
	rates, age := doc.At(at)
	c.Classes = scale.WithSlots(scale.WithSpeeds(c.Classes, rates), doc.SlotsAt(at))
	return age, nil
}

// warn says once for each cold start, not at every evaluation, that a count only grows.
func (p *Plugin) warn(query string, coldStart time.Duration, short error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.short[query] != coldStart {
		p.short[query] = coldStart
		p.log.Warn("the count cannot shrink", "query", query, "coldstart", coldStart.String(), "error", short)
	}
}

// config reads the settings of a check; learned says that the cold start is not
// among them but was learned.
func (p *Plugin) config(check *sdk.ScalingPolicyCheck) (c scale.Config, learned bool, err error) {
	settings := map[string]string{}
	for k, v := range check.Strategy.Config {
		settings[k] = v
	}
	if settings[coldStart] == "" {
		p95, err := p.coldStart(check.Query)
		if err != nil {
			return c, false, err
		}
		if learned = p95 > 0; learned {
			settings[coldStart] = p95.String()
		}
	}
	c, err = scale.ParseConfig(settings)
	return c, learned, err
}

// coldStart is the setting that, where given, stands instead of what is learned.
const coldStart = "coldstart"

// coldStart returns the learned cold start of the service in a query; 0 where
// nothing is known, or the query is not one of aliquot-apm's. When Consul is away
// and never answered it fails, because a guess could let a count shrink too soon.
func (p *Plugin) coldStart(query string) (time.Duration, error) {
	p.mu.Lock()
	client := p.consul
	p.mu.Unlock()
	q, err := apm.ParseQuery(query)
	if client == nil || err != nil {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	samples, err := coldstart.Read(ctx, client, q.Service)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		last, ok := p.learned[q.Service]
		if !ok {
			return 0, guard.Plain(fmt.Errorf("learned cold start of %q: %w; set coldstart in the policy to do without Consul", q.Service, err))
		}
		return last, nil
	}
	learned, _ := coldstart.P95(samples, time.Now())
	p.learned[q.Service] = learned
	return learned, nil
}

// action puts a decision into the agent's words. The direction is always set: an
// action without one is dropped.
func action(c scale.Config, d scale.Decision, count int64) *sdk.ScalingAction {
	a := &sdk.ScalingAction{
		Count: int64(d.Count), Reason: d.Reason, Direction: sdk.ScaleDirectionNone,
		Meta: map[string]any{
			"aliquot.demand":    d.Need.Demand,
			"aliquot.coldstart": c.Policy.ColdStart.String(),
			"aliquot.panicking": d.Need.Panicking,
		},
	}
	for i, class := range c.Classes {
		a.Meta["aliquot.plan."+class.Name] = d.Plan[i]
		if class.Speed != 1 {
			a.Meta["aliquot.speed."+class.Name] = class.Speed
		}
	}
	switch {
	case a.Count > count:
		a.Direction = sdk.ScaleDirectionUp
	case a.Count < count:
		a.Direction = sdk.ScaleDirectionDown
	}
	return a
}
