// Package target is the Nomad Autoscaler's target for task groups whose replicas start slowly and
// need devices. It reports the count that is set, waits for deployments to end, and reports
// exhausted devices.
package target

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/plugins/base"
	"github.com/hashicorp/nomad-autoscaler/plugins/shared"
	"github.com/hashicorp/nomad-autoscaler/sdk"
	nomadconfig "github.com/hashicorp/nomad-autoscaler/sdk/helper/nomad"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/autoscaler-plugin/changes"
	"aliquot.example/autoscaler-plugin/guard"
	"aliquot.example/autoscaler-plugin/settings"
	"aliquot.example/autoscaler-plugin/siblings"
)

// Name is the name of the plugin and of its program file.
const Name = "aliquot-target"

// The keys in the meta of a status.
const (
	MetaDesired    = "aliquot.desired"    // the count that is set
	MetaRunning    = "aliquot.running"    // allocations that run
	MetaPlaced     = "aliquot.placed"     // allocations that have a node
	MetaDeployment = "aliquot.deployment" // the active deployment that scaling waits for
	MetaBlocked    = "aliquot.blocked"    // why allocations find no node
	MetaProblem    = "aliquot.problem"    // why the group cannot be scaled now
)

// Plugin answers the agent's RPCs.
type Plugin struct {
	log hclog.Logger

	mu    sync.Mutex
	nomad *nomad.Client // nil before SetConfig
	// jobs holds one lock per job; see Scale.
	jobs map[string]*sync.Mutex
	// asked is when the agent last requested a status. interval is the longest time that the agent
	// plans between two requests.
	asked     time.Time
	interval  time.Duration
	stopWatch chan struct{}

	states changes.Seen[group, string]
}

// group is the target of a policy.
type group struct{ namespace, job, name string }

// String includes the namespace if it is not the default one.
func (g group) String() string {
	if g.namespace != nomad.DefaultNamespace {
		return g.namespace + "/" + g.job + "/" + g.name
	}
	return g.job + "/" + g.name
}

// New returns a plugin. Call SetConfig before any other RPC.
func New(log hclog.Logger) *Plugin {
	return &Plugin{log: log, jobs: map[string]*sync.Mutex{}}
}

// PluginInfo returns the plugin's name and type.
func (p *Plugin) PluginInfo() (*base.PluginInfo, error) {
	return &base.PluginInfo{Name: Name, PluginType: sdk.PluginTypeTarget}, nil
}

// SetConfig takes Nomad's address and token from the settings that the agent passes to every
// plugin, and one setting for this plugin: restart_agent_after, see watchdog.
func (p *Plugin) SetConfig(config map[string]string) (err error) {
	defer guard.Recover(p.log, "SetConfig", &err)
	if err := settings.Known(config, restartAgentAfter); err != nil {
		return fmt.Errorf("%s: %w", Name, err)
	}
	patience := defaultPatience
	if text := config[restartAgentAfter]; text != "" {
		if patience, err = time.ParseDuration(text); err != nil || patience < 0 {
			return fmt.Errorf("%s: %s is %q: want a duration such as 2m, or 0 for never", Name, restartAgentAfter, text)
		}
	}
	client, err := nomad.NewClient(nomadconfig.ConfigFromNamespacedMap(config))
	if err != nil {
		return fmt.Errorf("%s: nomad: %w", Name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nomad = client
	if p.stopWatch != nil {
		close(p.stopWatch)
		p.stopWatch = nil
	}
	if patience > 0 {
		p.stopWatch = make(chan struct{})
		w := &watchdog{plugin: p, patience: patience, agent: siblings.Agent(), stop: p.stopWatch}
		go w.run()
	}
	return nil
}

func (p *Plugin) client() (*nomad.Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.nomad == nil {
		return nil, errors.New(Name + " is not configured yet")
	}
	return p.nomad, nil
}

func read(config map[string]string) (group, error) {
	g := group{config[sdk.TargetConfigKeyNamespace], config[sdk.TargetConfigKeyJob],
		config[sdk.TargetConfigKeyTaskGroup]}
	if g.job == "" || g.name == "" {
		return g,
			fmt.Errorf("%s scales task groups of jobs: Job is %q and Group is %q; is the scaling block inside a group?",
				Name, g.job, g.name)
	}
	if g.namespace == "" {
		g.namespace = nomad.DefaultNamespace
	}
	return g, nil
}

// margin is the part of the agent's time limit that is left for returning the answer.
const margin = 100 * time.Millisecond

// limit returns how long one RPC may wait for Nomad: slightly less than the agent's limit, which is
// three quarters of the evaluation interval, or 5 s if the agent sets none.
func limit(config map[string]string) time.Duration {
	if granted, err := time.ParseDuration(config[shared.PluginConfigKeyGRPCTimeout]); err == nil {
		return max(granted-margin, granted/2)
	}
	return 5 * time.Second
}

// Status reports the count that is set. For a group that cannot be scaled now, it reports "not
// ready" instead of an error: the agent can drop a policy whose target returns an error, but
// retries one that is not ready.
func (p *Plugin) Status(config map[string]string) (status *sdk.TargetStatus, err error) {
	defer guard.Recover(p.log, "Status", &err)
	g, err := read(config)
	if err != nil {
		return nil, err
	}
	client, err := p.client()
	if err != nil {
		return nil, err
	}
	p.recordRequest(config)
	ctx, cancel := context.WithTimeout(context.Background(), limit(config))
	defer cancel()
	s, err := readState(ctx, client, g)
	if err != nil {
		p.logChange(g, "not ready: "+err.Error(), false)
		return &sdk.TargetStatus{Meta: map[string]string{MetaProblem: guard.Plain(err).Error()}}, nil
	}
	p.logChange(g, s.summary(), s.deployment == "" && s.blocked == "")
	return s.answer(), nil
}

// logChange logs a group's state if it has changed.
func (p *Plugin) logChange(g group, text string, good bool) {
	if !p.states.Changed(g, text) {
		return
	}
	if good {
		p.log.Debug("target", "group", g.String(), "state", text)
	} else {
		p.log.Warn("target", "group", g.String(), "state", text)
	}
}

// state is a group's state in Nomad.
type state struct {
	desired, placed, running int
	stopped                  bool
	deployment, blocked      string
	lastEvent                uint64
	modified                 uint64 // the job's modify index
}

func readState(ctx context.Context, client *nomad.Client, g group) (state, error) {
	q := (&nomad.QueryOptions{Namespace: g.namespace}).WithContext(ctx)
	scaling, _, err := client.Jobs().ScaleStatus(g.job, q)
	if err != nil {
		if code := (nomad.UnexpectedResponseError{}); errors.As(err, &code) &&
			code.StatusCode() == http.StatusNotFound {
			return state{}, fmt.Errorf("job %q is not in namespace %q", g.job, g.namespace)
		}
		return state{}, fmt.Errorf("cannot ask Nomad for job %q: %w", g.job, err)
	}
	of, ok := scaling.TaskGroups[g.name]
	if !ok {
		return state{}, fmt.Errorf("job %q has no group %q", g.job, g.name)
	}
	s := state{desired: of.Desired, placed: of.Placed, running: of.Running, stopped: scaling.JobStopped,
		modified: scaling.JobModifyIndex}
	if len(of.Events) > 0 {
		s.lastEvent = of.Events[0].Time
	}
	deployment, _, err := client.Jobs().LatestDeployment(g.job, q)
	if err != nil {
		return s, fmt.Errorf("cannot ask Nomad for the deployment of job %q: %w", g.job, err)
	}
	if deployment != nil && active(deployment.Status) && deployment.JobCreateIndex == scaling.JobCreateIndex {
		s.deployment = fmt.Sprintf("deployment %.8s is %s", deployment.ID, deployment.Status)
	}
	if s.placed < s.desired {
		s.blocked, err = blocked(client, g, q)
	}
	return s, err
}

// active reports whether Nomad refuses to scale the job, like structs.Deployment.Active in Nomad.
func active(status string) bool {
	switch status {
	case nomad.DeploymentStatusRunning, nomad.DeploymentStatusPaused, nomad.DeploymentStatusBlocked,
		nomad.DeploymentStatusUnblocking, nomad.DeploymentStatusPending, "initializing":
		return true
	}
	return false
}

// blocked returns Nomad's reason why allocations of the group find no node, or "" if none waits.
func blocked(client *nomad.Client, g group, q *nomad.QueryOptions) (string, error) {
	evaluations, _, err := client.Jobs().Evaluations(g.job, q)
	if err != nil {
		return "", fmt.Errorf("cannot ask Nomad for the evaluations of job %q: %w", g.job, err)
	}
	for _, e := range evaluations {
		failed := e.FailedTGAllocs[g.name]
		if e.Status != "blocked" || failed == nil {
			continue
		}
		var why []string
		for dimension, nodes := range failed.DimensionExhausted {
			why = append(why, fmt.Sprintf("%s exhausted on %d nodes", dimension, nodes))
		}
		for constraint, nodes := range failed.ConstraintFiltered {
			why = append(why, fmt.Sprintf("%s on %d nodes", constraint, nodes))
		}
		return strings.Join(append(sortedCopy(why), "waiting for room"), ", "), nil
	}
	return "", nil
}

func (s state) summary() string {
	text := fmt.Sprintf("%d desired", s.desired)
	if s.blocked != "" {
		text += fmt.Sprintf(", %d placed: %s", s.placed, s.blocked)
	}
	if s.deployment != "" {
		text += "; scaling waits: " + s.deployment
	}
	if s.stopped {
		text += "; the job is stopped"
	}
	return text
}

// answer returns the desired count, not the running one. The running count is smaller while
// replicas start or find no device, and would make the agent scale again and again.
func (s state) answer() *sdk.TargetStatus {
	meta := map[string]string{
		MetaDesired: strconv.Itoa(s.desired), MetaRunning: strconv.Itoa(s.running), MetaPlaced: strconv.Itoa(s.placed),
	}
	for key, value := range map[string]string{MetaDeployment: s.deployment, MetaBlocked: s.blocked} {
		if value != "" {
			meta[key] = value
		}
	}
	if s.lastEvent > 0 {
		meta[sdk.TargetStatusMetaKeyLastEvent] = strconv.FormatUint(s.lastEvent, 10)
	}
	return &sdk.TargetStatus{Ready: !s.stopped && s.deployment == "", Count: int64(s.desired), Meta: meta}
}
