package plugin

import (
	"context"
	"fmt"
	"slices"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/share"
)

// staleHolders says for each offer whether a task still uses its GPU by instances that
// are offered no longer, because slices or mode were changed under it. Nomad does
// not count those against the new ones, so the GPU must not be offered until the
// task has ended. A task is seen once it has opened the GPU.
//
// It looks when the loop begins and, while it finds some, in every round; else the
// newest reading is good enough, since Nomad asks for statistics all the time.
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
					"allocation %s (task %q) was granted %d of it as it was offered before slices or mode changed; "+
						"it takes new tasks when that has ended", own.alloc, own.task, n)
				break
			}
		}
	}
	l.held = len(out) > 0
	return out
}
