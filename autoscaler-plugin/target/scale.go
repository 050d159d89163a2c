package target

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/nomad-autoscaler/sdk"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot/autoscaler-plugin/guard"
)

func sortedCopy(s []string) []string { return slices.Sorted(slices.Values(s)) }

// attempts is how often a count is submitted when the job was changed meanwhile,
// for example by the policy of another group.
const attempts = 5

// scaleLimit bounds one submission; the agent sets no limit.
const scaleLimit = 10 * time.Second

// Scale sets the count of the one group. Nomad reads the job, changes the group and
// writes the whole job back without looking whether it has changed meanwhile, so
// that two groups scaled at the same moment could undo each other: the groups of
// one job take turns here. While a deployment is active nothing is lost:
// the agent is told that there was nothing to do, and the next evaluation after
// the deployment decides anew by the demand of that moment.
func (p *Plugin) Scale(action sdk.ScalingAction, config map[string]string) (err error) {
	defer guard.Recover(p.log, "Scale", &err)
	g, err := read(config)
	if err != nil {
		return err
	}
	client, err := p.client()
	if err != nil {
		return err
	}
	turn := p.turn(g)
	turn.Lock()
	defer turn.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), scaleLimit)
	defer cancel()
	for attempt := 1; ; attempt++ {
		err = submit(ctx, client, g, action)
		if err == nil || attempt == attempts || !answers(err, http.StatusInternalServerError, conflict) {
			break
		}
	}
	var nothing *sdk.TargetScalingNoOpError
	switch {
	case err == nil:
		p.log.Info("scaled", "group", g.String(), "count", action.Count, "reason", action.Reason)
	case errors.As(err, &nothing):
		p.log.Info("not scaled", "group", g.String(), "count", action.Count, "why", err)
	default:
		err = guard.Plain(fmt.Errorf("group %s could not be scaled to %d: %w", g, action.Count, err))
	}
	return err
}

func (p *Plugin) turn(g group) *sync.Mutex {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := g.namespace + "/" + g.job
	if p.jobs[key] == nil {
		p.jobs[key] = &sync.Mutex{}
	}
	return p.jobs[key]
}

// answers reports whether an error is an answer of Nomad with a status and words. An
// error that merely quotes the words, such as one of the network, is none.
func answers(err error, status int, words string) bool {
	var answer nomad.UnexpectedResponseError
	return errors.As(err, &answer) && answer.StatusCode() == status && strings.Contains(answer.Body(), words)
}

// What Nomad answers, with codes that say less.
const (
	conflict         = "job modify index" // another writer was faster
	activeDeployment = "blocked due to active deployment"
)

func submit(ctx context.Context, client *nomad.Client, g group, action sdk.ScalingAction) error {
	job, _, err := client.Jobs().Info(g.job, (&nomad.QueryOptions{Namespace: g.namespace}).WithContext(ctx))
	if err != nil {
		return err
	}
	request := &nomad.ScalingRequest{
		Target:  map[string]string{"Job": g.job, "Group": g.name},
		Message: action.Reason, Error: action.Error, Meta: action.Meta,
		JobModifyIndex: *job.JobModifyIndex,
	}
	if action.Count != sdk.StrategyActionMetaValueDryRunCount {
		if of := job.LookupTaskGroup(g.name); of != nil && int64(*of.Count) == action.Count {
			return sdk.NewTargetScalingNoOpError("group %s is set to %d already", g, action.Count)
		}
		request.Count = &action.Count
	}
	_, _, err = client.Jobs().ScaleWithRequest(g.job, request, (&nomad.WriteOptions{Namespace: g.namespace}).WithContext(ctx))
	if answers(err, http.StatusBadRequest, activeDeployment) {
		return sdk.NewTargetScalingNoOpError("group %s waits for the active deployment of its job", g)
	}
	return err
}
