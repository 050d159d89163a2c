package plugin

import (
	"context"
	"fmt"
	"slices"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/share"
)

// staleHolders returns a reason for each offer whose GPU is still used by a task that holds instances
// of an older configuration of slices or mode. Nomad does not subtract those from the new instances,
// so the GPU must take no other task until that one has ended. A task is visible only after it has
// opened the GPU.
//
// It takes a reading when the loop starts and, while it finds such tasks, in every round. Otherwise
// it uses the newest reading, because Nomad requests statistics continually.
func (l *loop) staleHolders(ctx context.Context, plan share.Plan) map[gpu.ID]string {
	if len(plan.Offers) == 0 {
		return nil
	}
	l.measuring.Lock()
	r := l.last
	l.measuring.Unlock()
	if r.at.IsZero() || l.held {
		var ok bool
		if r, ok = l.usage(ctx); !ok {
			return nil
		}
	}
	out := map[gpu.ID]string{}
	for _, o := range plan.Offers {
		instances := o.Instances()
		for _, p := range r.usage[o.ID].Processes {
			own := r.owners[p.PID]
			n := 0
			for _, id := range own.instances {
				if s, err := gpu.ParseSlice(id); err == nil && s.GPU == o.ID && !slices.Contains(instances, id) {
					n++
				}
			}
			if n > 0 {
				out[o.ID] = fmt.Sprintf(
					"allocation %s (task %q) holds %d instances of it from before a change of slices or mode; "+
						"it takes new tasks when that allocation has ended", own.alloc, own.task, n)
				break
			}
		}
	}
	l.held = len(out) > 0
	return out
}
