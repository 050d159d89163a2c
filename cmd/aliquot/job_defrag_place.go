package main

import (
	"context"
	"fmt"
	"slices"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/account"
)

// place asks Nomad to plan one more allocation of the group of a. It returns the reason why there
// is no place, "" if there is one. It modifies job.
func (d defrag) place(ctx context.Context, job *nomad.Job, a *nomad.Allocation) (string, error) {
	tg := job.LookupTaskGroup(a.TaskGroup)
	count := 2
	if tg.Count != nil {
		count = *tg.Count + 1
	}
	tg.Count, tg.Scaling = &count, nil // the maximum of its scaling block may be the old count
	plan, _, err := d.nomad.Jobs().Plan(job, false, (&nomad.WriteOptions{Namespace: a.Namespace}).WithContext(ctx))
	if err != nil {
		return "", fmt.Errorf("cannot plan a successor of allocation %.8s of %s: %w", a.ID, a.JobID, err)
	}
	if plan.FailedTGAllocs[a.TaskGroup] != nil {
		return "Nomad finds no place for its successor on another node", nil
	}
	return "", nil
}

// fits reports whether the target node of a move has a place for the allocation. It asks Nomad
// to plan a separate job with one allocation on this node; it submits nothing.
func (d defrag) fits(ctx context.Context, m account.Move, before []account.Move) (bool, error) {
	a := m.Allocation
	q := (&nomad.QueryOptions{Namespace: a.Namespace}).WithContext(ctx)
	job, _, err := d.nomad.Jobs().Info(a.JobID, q)
	if err != nil {
		return false, fmt.Errorf("cannot read job %s: %w", a.JobID, err)
	}
	tg := job.LookupTaskGroup(a.TaskGroup)
	if tg == nil || m.To.Holds(a, distinctHosts(job, tg)) {
		return false, nil
	}
	trial := trialOf(job, tg, m.To.ID)
	plan, _, err := d.nomad.Jobs().Plan(trial, false, (&nomad.WriteOptions{Namespace: a.Namespace}).WithContext(ctx))
	if err != nil {
		return false, fmt.Errorf("cannot plan allocation %.8s of %s on node %s: %w", a.ID, a.JobID, m.To.Name, err)
	}
	failed := plan.FailedTGAllocs[a.TaskGroup]
	if failed == nil {
		return true, nil
	}
	// A resource that is exhausted now may be free after an earlier move.
	for _, b := range before {
		if b.From.ID == m.To.ID && failed.NodesExhausted > 0 {
			return true, nil
		}
	}
	return false, nil
}

// trialOf returns a copy of the job with one allocation of one group, constrained to one node.
func trialOf(job *nomad.Job, tg *nomad.TaskGroup, node string) *nomad.Job {
	trial, group, one := *job, *tg, 1
	id := *job.ID + "-trial"
	group.Count, group.Scaling = &one, nil
	trial.ID, trial.Name, trial.TaskGroups = &id, &id, []*nomad.TaskGroup{&group}
	trial.Constraints = append(slices.Clone(job.Constraints), nomad.NewConstraint("${node.unique.id}", "=", node))
	return &trial
}

// distinctHosts returns which other allocations must not run on the same node as one of the group, by
// the job's distinct_hosts constraints: those of the job, those of the group, or none.
func distinctHosts(job *nomad.Job, tg *nomad.TaskGroup) account.DistinctHosts {
	of := func(list []*nomad.Constraint) bool {
		for _, c := range list {
			if c.Operand == nomad.ConstraintDistinctHosts && c.RTarget != "false" {
				return true
			}
		}
		return false
	}
	switch {
	case of(job.Constraints):
		return account.DistinctByJob
	case of(tg.Constraints):
		return account.DistinctByGroup
	}
	return account.NotDistinct
}
