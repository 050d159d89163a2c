package target

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/nomad-autoscaler/sdk"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/autoscaler-plugin/guard"
)

func sortedCopy(s []string) []string { return slices.Sorted(slices.Values(s)) }

// attempts is how often to submit a count if the job changes at the same time, for example by the
// policy of another group.
const attempts = 5

// scaleTimeout is the timeout of one call of Scale. The agent sets none.
const scaleTimeout = 10 * time.Second

// Scale sets the count of one group. Nomad reads the job, changes the group and writes the whole
// job back without checking for changes in between, so two groups scaled at the same moment could
// undo each other. Scale therefore holds a lock per job. During an active deployment Scale returns
// a no-op error. No demand is lost: the next evaluation after the deployment decides again.
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
	ctx, cancel := context.WithTimeout(context.Background(), scaleTimeout)
	defer cancel()
	for attempt := 1; ; attempt++ {
		err = submit(ctx, client, g, action)
		if !errors.Is(err, errOvertaken) || attempt == attempts {
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

// errOvertaken means that another writer changed the job in between.
var errOvertaken = errors.New("the job was changed by someone else at the same time")

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
	_, _, err = client.Jobs().ScaleWithRequest(g.job, request,
		(&nomad.WriteOptions{Namespace: g.namespace}).WithContext(ctx))
	if refused := (nomad.UnexpectedResponseError{}); errors.As(err, &refused) {
		return refusalReason(ctx, client, g, *job.JobModifyIndex, err)
	}
	return err
}

// refusalReason determines the cause of a refusal from the state of the job, because Nomad returns one code
// for many causes.
func refusalReason(ctx context.Context, client *nomad.Client, g group, submitted uint64, refused error) error {
	s, err := readState(ctx, client, g)
	switch {
	case err != nil:
		return refused
	case s.deployment != "":
		return sdk.NewTargetScalingNoOpError("group %s waits for the active deployment of its job: %s", g, s.deployment)
	case s.modified != submitted:
		return fmt.Errorf("%w: %w", errOvertaken, refused)
	}
	return refused
}
