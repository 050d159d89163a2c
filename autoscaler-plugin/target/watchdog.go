package target

import (
	"context"
	"os"
	"syscall"
	"time"

	"github.com/hashicorp/nomad-autoscaler/plugins/shared"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/autoscaler-plugin/guard"
)

// restartAgentAfter is the setting of the watchdog's patience.
const restartAgentAfter = "restart_agent_after"

const defaultPatience = 2 * time.Minute

// watchdog terminates an agent that has lost its policies. If Nomad's API was unavailable for a
// moment, the agent (v0.5.0) drops all policies and takes up each of them only when it changes
// again. Until then the agent runs and is healthy, but scales nothing. Its supervisor, Nomad,
// restarts an agent that exits.
//
// An agent has lost its policies if it evaluated some before, Nomad answers and has policies for
// this target, and the agent has evaluated none for patience.
type watchdog struct {
	plugin   *Plugin
	patience time.Duration
	agent    int // process ID of the agent, which started this plugin
	stop     chan struct{}
}

// recordRequest records a request of the agent. The time limit in it is three quarters of the policy's
// evaluation interval.
func (p *Plugin) recordRequest(config map[string]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = time.Now()
	if granted, err := time.ParseDuration(config[shared.PluginConfigKeyGRPCTimeout]); err == nil {
		p.interval = max(p.interval, granted*4/3)
	}
}

// idleTime returns how long the agent has sent no request, beyond what its policies' intervals
// explain. It is 0 before the first request.
func (p *Plugin) idleTime() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked.IsZero() {
		return 0
	}
	return time.Since(p.asked) - 2*p.interval
}

func (w *watchdog) run() {
	tick := time.NewTicker(max(time.Second, w.patience/8))
	defer tick.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-tick.C:
		}
		if w.agent > 0 && w.lost() && os.Getppid() == w.agent {
			w.plugin.log.Error("stopping the agent: it has evaluated no policy for too long; "+
				"the supervisor restarts it with all policies",
				"silence", w.plugin.idleTime().Round(time.Second).String(), "setting", restartAgentAfter)
			if err := syscall.Kill(w.agent, syscall.SIGTERM); err != nil {
				w.plugin.log.Error("cannot stop the agent", "error", err)
			}
			return
		}
	}
}

func (w *watchdog) lost() (yes bool) {
	if w.plugin.idleTime() < w.patience {
		return false
	}
	var err error
	defer func() {
		if err != nil {
			w.plugin.log.Debug("policies cannot be looked up", "error", err)
			yes = false
		}
	}()
	defer guard.Recover(w.plugin.log, "watchdog", &err)
	client, err := w.plugin.client()
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), scaleTimeout)
	defer cancel()
	yes, err = hasPolicies(ctx, client)
	return yes
}

// hasPolicies reports whether Nomad has an enabled policy for this target that is always evaluated.
// Policies with a schedule do not count, because the agent does not evaluate them outside of it.
func hasPolicies(ctx context.Context, client *nomad.Client) (bool, error) {
	q := (&nomad.QueryOptions{}).WithContext(ctx)
	stubs, _, err := client.Scaling().ListPolicies(q)
	if err != nil {
		return false, err
	}
	for _, stub := range stubs {
		if !stub.Enabled {
			continue
		}
		policy, _, err := client.Scaling().GetPolicy(stub.ID, q)
		if err != nil {
			return false, err
		}
		if policy.Policy["schedule"] == nil && targets(policy.Policy["target"]) {
			return true, nil
		}
	}
	return false, nil
}

// targets reports whether a policy's target blocks include this target. Nomad's format is
// [{"aliquot-target": [{…}]}].
func targets(blocks any) bool {
	list, _ := blocks.([]any)
	for _, block := range list {
		named, _ := block.(map[string]any)
		if _, ok := named[Name]; ok {
			return true
		}
	}
	return false
}
