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

// A start waits so long for room: the task whose place it takes may be ending.
const (
	roomWait = 30 * time.Second
	roomLook = 500 * time.Millisecond
)

// claim is what one task has of GPUs, as parts of each.
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

// excess returns the GPU that one more claim would overcommit, and who has the
// rest. "" where it fits. Nomad's account cannot see it: slices of a GPU that was
// divided again are other devices than those that a running task holds of it.
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
			return fmt.Sprintf("%.0f%% of GPU %s were granted, and %s hold the rest of it: it was divided again, "+
				"or given away, while they run; the task starts when there is room",
				100*part, id, strings.Join(by, ", "))
		}
	}
	return ""
}

// claims are the parts of GPUs that tasks have whose containers run, or are being
// started.
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

// take counts a start until settle, where it fits.
func (s *tasks) take(id string, c claim) (why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if why = excess(s.claims(), c); why == "" {
		s.starting[id] = c
	}
	return why
}

// settle ends what take began: the task runs by now, or does not.
func (s *tasks) settle(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.starting, id)
}

// room waits until a grant fits into its GPUs beside the tasks that run. The caller
// settles it.
func (s *tasks) room(ctx context.Context, cfg *drivers.TaskConfig, g gpu.Grant) error {
	ctx, cancel := context.WithTimeout(ctx, roomWait)
	defer cancel()
	look := time.NewTicker(roomLook)
	defer look.Stop()
	for {
		why := s.take(cfg.ID, claimOf(nameOf(cfg), g))
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
