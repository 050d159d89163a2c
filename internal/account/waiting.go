package account

import (
	"context"
	"fmt"

	"github.com/hashicorp/nomad/api"
)

// maxWaiting is the maximum number of waiting jobs that are read.
const maxWaiting = 2000

// Wait returns the work that Nomad could not place, in all namespaces that the token may read.
func Wait(ctx context.Context, client *api.Client) ([]Waiting, error) {
	q := (&api.QueryOptions{Namespace: api.AllNamespacesNamespace, Filter: `Status == "blocked"`}).WithContext(ctx)
	evaluations, _, err := client.Evaluations().List(q)
	if err != nil {
		return nil, fmt.Errorf("cannot list the blocked evaluations of Nomad: %w", err)
	}
	if len(evaluations) > maxWaiting {
		return nil, fmt.Errorf("%d jobs wait for room, more than the limit of %d", len(evaluations), maxWaiting)
	}
	var out []Waiting
	for _, e := range evaluations {
		if len(e.FailedTGAllocs) == 0 || e.QuotaLimitReached != "" {
			continue // it waits for something other than a node
		}
		job, _, err := client.Jobs().Info(e.JobID, (&api.QueryOptions{Namespace: e.Namespace}).WithContext(ctx))
		if isNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read job %s: %w", e.JobID, err)
		}
		for _, group := range job.TaskGroups {
			if failed := e.FailedTGAllocs[*group.Name]; failed != nil {
				out = append(out, Waiting{
					Job: job, Group: group, Count: 1 + failed.CoalescedFailures,
					Exhausted: failed.NodesExhausted, Snapshot: e.SnapshotIndex,
				})
			}
		}
	}
	return out, nil
}
