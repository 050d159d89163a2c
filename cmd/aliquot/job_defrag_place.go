package main

import (
	"context"
	"fmt"
	"slices"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/account"
)

// place asks Nomad to plan one more allocation of the group of one, and says why there
// is no place for it, "" where there is. It changes the job it is given.
func (d defrag) place(ctx context.Context, job *nomad.Job, a *nomad.Allocation) (string, error) {
	tg := job.LookupTaskGroup(a.TaskGroup)
	count := 2
	if tg.Count != nil {
		count = *tg.Count + 1
	}
	tg.Count, tg.Scaling = &count, nil // its most may be the count
	plan, _, err := d.nomad.Jobs().Plan(job, false, (&nomad.WriteOptions{Namespace: a.Namespace}).WithContext(ctx))
	if err != nil {
		return "", fmt.Errorf("a place for a successor of allocation %.8s of %s cannot be planned: %w", a.ID,
			a.JobID, err)
	}
	if plan.FailedTGAllocs[a.TaskGroup] != nil {
		return "Nomad finds no place for its successor on another node", nil
	}
	return "", nil
}

// takes asks Nomad to plan one allocation of a move's group on the node that it would go
// to, as a job of its own, and reports whether the node takes it. Nothing is submitted.
func (d defrag) takes(ctx context.Context, m account.Move, before []account.Move) (bool, error) {
	a := m.Allocation
	q := (&nomad.QueryOptions{Namespace: a.Namespace}).WithContext(ctx)
	job, _, err := d.nomad.Jobs().Info(a.JobID, q)
	if err != nil {
		return false, fmt.Errorf("job %s cannot be read: %w", a.JobID, err)
	}
	tg := job.LookupTaskGroup(a.TaskGroup)
	if tg == nil || m.To.Holds(a, apart(job, tg)) {
		return false, nil
	}
	trial := trialOf(job, tg, m.To.ID)
	plan, _, err := d.nomad.Jobs().Plan(trial, false, (&nomad.WriteOptions{Namespace: a.Namespace}).WithContext(ctx))
	if err != nil {
		return false, fmt.Errorf("a place for allocation %.8s of %s on node %s cannot be planned: %w",
			a.ID, a.JobID, m.To.Name, err)
	}
	failed := plan.FailedTGAllocs[a.TaskGroup]
	if failed == nil {
		return true, nil
	}
	// What is exhausted now may be free after a move that is made first.
	for _, b := range before {
		if b.From.ID == m.To.ID && failed.NodesExhausted > 0 {
			return true, nil
		}
	}
	return false, nil
}

// trialOf is a job with one allocation of a group, on one node.
func trialOf(job *nomad.Job, tg *nomad.TaskGroup, node string) *nomad.Job {
	trial, group, one := *job, *tg, 1
	id := *job.ID + "-trial"
	group.Count, group.Scaling = &one, nil
	trial.ID, trial.Name, trial.TaskGroups = &id, &id, []*nomad.TaskGroup{&group}
	trial.Constraints = append(slices.Clone(job.Constraints), nomad.NewConstraint("${node.unique.id}", "=", node))
	return &trial
}

// apart says which other allocations must not be on the node of one: those of its job,
// those of its group, or none.
func apart(job *nomad.Job, tg *nomad.TaskGroup) account.Apart {
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
		return account.ApartByJob
	case of(tg.Constraints):
		return account.ApartByGroup
	}
	return account.Together
}
