// Package strategy is the Nomad Autoscaler's strategy for services behind Aliquot's gateways.
// Counts follow demand, not the current count.
package strategy

import (
	"fmt"
	"sync"
	"time"

	consul "github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/plugins/base"
	"github.com/hashicorp/nomad-autoscaler/sdk"

	"aliquot.example/autoscaler-plugin/changes"
	"aliquot.example/autoscaler-plugin/guard"
	"aliquot.example/autoscaler-plugin/settings"
	"aliquot.example/autoscaler-plugin/speed"
	"aliquot.example/internal/objective"
	"aliquot.example/internal/query"
	"aliquot.example/internal/scale"
)

// Name is the name of the plugin and of its program file.
const Name = "aliquot-strategy"

// Plugin answers the agent's RPCs.
type Plugin struct {
	log hclog.Logger

	mu sync.Mutex
	// consul holds learned cold starts. It is nil if the plugin's config disables them.
	consul *consul.Client
	// speeds reads the speeds of hardware classes. It is nil if they are disabled.
	speeds *speed.Reader
	// learned is the last cold start read from Consul, by service, for use while Consul is away.
	learned map[string]time.Duration
	// gateways receive how many replicas must stay awake.
	gateways *gateways
	// force is what classes serve, by service, objective and classes.
	force map[string]objective.Force

	// short is the cold start that makes a query's window too short, by query. silent is why
	// gateways did not receive the number of awake replicas, by query.
	short  changes.Seen[string, time.Duration]
	silent changes.Seen[string, string]
	// unmet is what part of an objective cannot be met, by query.
	unmet changes.Seen[string, string]
}

// New returns a plugin. Call SetConfig before any run.
func New(log hclog.Logger) *Plugin {
	return &Plugin{log: log, learned: map[string]time.Duration{}, force: map[string]objective.Force{}}
}

// PluginInfo returns the plugin's name and type.
func (p *Plugin) PluginInfo() (*base.PluginInfo, error) {
	return &base.PluginInfo{Name: Name, PluginType: sdk.PluginTypeStrategy}, nil
}

// learn is the setting that disables learned cold starts.
const learn = "learn_coldstart"

// SetConfig reads the plugin's settings; see docs/configuration.md.
func (p *Plugin) SetConfig(config map[string]string) (err error) {
	defer guard.Recover(p.log, "SetConfig", &err)
	names := append([]string{learn, speed.Setting, gatewayService, gatewayAddresses, ratesPrefix},
		settings.ConsulSettings...)
	if err := settings.Known(config, names...); err != nil {
		return fmt.Errorf("%s: %w", Name, err)
	}
	var client *consul.Client
	switch config[learn] {
	case "", "true":
		if client, err = settings.Consul(config); err != nil {
			return fmt.Errorf("%s: consul: %w", Name, err)
		}
	case "false":
	default:
		return fmt.Errorf("%s: %s is %q: want true or false", Name, learn, config[learn])
	}
	speeds, err := speed.NewReader(config)
	if err != nil {
		return fmt.Errorf("%s: %w", Name, err)
	}
	gateways := newGateways(config)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.consul, p.speeds, p.gateways = client, speeds, gateways
	return nil
}

// Run decides the count. The agent passes the demand and the count that the target reports; with
// aliquot-target, this is the count that is set. Everything else must be in the strategy's
// settings, because the agent passes neither limits nor job. Without an error the result is never
// nil, because that would crash the agent's server.
func (p *Plugin) Run(eval *sdk.ScalingCheckEvaluation, count int64) (_ *sdk.ScalingCheckEvaluation, err error) {
	defer guard.Recover(p.log, "Run", &err)
	c := check{ScalingPolicyCheck: eval.Check}
	if q, err := query.Parse(eval.Check.Query); err == nil {
		c.query = &q
	}
	config, e, err := p.fetch(c, eval.Metrics)
	if err != nil {
		return nil, fmt.Errorf("check %q: %w", eval.Check.Name, err)
	}
	e.Current = int(count)
	d := config.Decide(e)
	p.logChange(eval.Check.Query, config, d)
	eval.Action = action(config, d, count)
	if config.Policy.Sleep > 0 && e.Unknown == "" { // without an answer it is unknown how many must stay awake
		p.keepAwake(c, config, d.Awake)
	}
	return eval, nil
}

// logChange logs when an objective starts or stops deciding the count, and when it cannot be met.
func (p *Plugin) logChange(query string, c scale.Config, d scale.Decision) {
	switch {
	case c.Objective == nil || !p.unmet.Changed(query, d.Note):
	case d.Note == "":
		p.log.Info("the count follows the objective", "query", query, "objective", c.Objective.String())
	default:
		p.log.Warn(d.Note, "query", query, "objective", c.Objective.String())
	}
}

// action converts a decision to the agent's type. It always sets the direction, because the agent
// drops an action without one.
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
