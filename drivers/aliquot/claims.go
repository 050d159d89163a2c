package aliquot

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"

	"aliquot.example/internal/gpu"
)

// A start waits up to roomTimeout for room, because the task that it replaces may still be ending.
const (
	roomTimeout  = 30 * time.Second
	roomInterval = 500 * time.Millisecond
)

// claim has a task's fractions of GPUs.
type claim struct {
	task  string
	parts map[gpu.ID]float64
}

// claimOf counts a grant's slices on each of its GPUs.
func claimOf(task string, g gpu.Grant) claim {
	c := claim{task: task, parts: map[gpu.ID]float64{}}
	for _, id := range g.Instances {
		if slice, err := gpu.ParseSlice(id); err == nil {
			c.parts[slice.GPU] += 1 / float64(g.Total)
		}
	}
	return c
}

// excess returns an error text with the GPU that one more claim would overcommit and the tasks that hold
// it, or "" if the claim fits. Nomad cannot detect this: after a GPU was divided again, its slices are
// other devices than those that a running task holds.
func excess(held []claim, more claim) string {
	const rounding = 1e-9
	for id, part := range more.parts {
		sum := part
		var by []string
		for _, c := range held {
			if c.parts[id] > 0 {
				sum += c.parts[id]
				by = append(by, fmt.Sprintf("%s (%.0f%%)", c.task, 100*c.parts[id]))
			}
		}
		if sum > 1+rounding {
			slices.Sort(by)
			return fmt.Sprintf("%.0f%% of GPU %s were granted, but %s still hold too much of it: its slices or mode "+
				"changed while they run; the task starts when there is room",
				100*part, id, strings.Join(by, ", "))
		}
	}
	return ""
}

// claims returns the claims of tasks whose containers run or are being started.
func (s *tasks) claims() []claim {
	var out []claim
	for _, t := range s.byID {
		if t.grant != nil && t.ctx.Err() == nil {
			out = append(out, claimOf(nameOf(t.config), *t.grant))
		}
	}
	for id, c := range s.starting {
		if s.byID[id] == nil {
			out = append(out, c)
		}
	}
	return out
}

func nameOf(cfg *drivers.TaskConfig) string {
	return fmt.Sprintf("task %s of allocation %.8s", cfg.Name, cfg.AllocID)
}

// claim records the claim of a start until settle, if it fits. Otherwise it returns why not.
func (s *tasks) claim(id string, c claim) (why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if why = excess(s.claims(), c); why == "" {
		s.starting[id] = c
	}
	return why
}

// settle removes the claim that take recorded, after the task has started or failed to.
func (s *tasks) settle(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.starting, id)
}

// room waits until a grant fits into its GPUs together with the running tasks. The caller then calls
// settle.
func (s *tasks) room(ctx context.Context, cfg *drivers.TaskConfig, g gpu.Grant) error {
	ctx, cancel := context.WithTimeout(ctx, roomTimeout)
	defer cancel()
	look := time.NewTicker(roomInterval)
	defer look.Stop()
	for {
		why := s.claim(cfg.ID, claimOf(nameOf(cfg), g))
		if why == "" {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return structs.NewRecoverableError(fmt.Errorf("no room on the GPU: %s", why), true)
		}
	}
}

// running returns the tasks with a grant whose containers run, in a steady order.
func (s *tasks) running() []*task {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*task
	for _, t := range s.byID {
		if t.grant != nil && t.ctx.Err() == nil {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(a, b *task) int { return strings.Compare(a.config.ID, b.config.ID) })
	return out
}
