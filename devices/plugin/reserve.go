package plugin

import (
	"cmp"
	"context"
	"fmt"
	"maps"

	"github.com/hashicorp/nomad/plugins/device"

	"aliquot.example/internal/share"
)

// reserve resolves the IDs against the plan and adds the vendor's part.
func (l *loop) reserve(ctx context.Context, ids []string) (*device.ContainerReservation, error) {
	planned := make(chan share.Plan, 1)
	go func() { planned <- l.current(ctx) }() // the first call reads from a driver that may hang
	var plan share.Plan
	select {
	case plan = <-planned:
	case <-ctx.Done():
		return nil, fmt.Errorf("the GPUs' driver did not answer within %s; the GPUs accept no tasks now",
			reserveTimeout)
	}
	granted, err := plan.Grant(ids)
	if err != nil {
		return nil, err
	}
	if why := l.claim.missing(); why != "" {
		return nil, fmt.Errorf("the GPUs accept no tasks now: %s", why)
	}
	if err := l.withheld(granted); err != nil {
		return nil, err
	}
	r, err := l.vendor.Reserve(ctx, granted)
	if err != nil {
		return nil, err
	}
	granted.Grant.Pipe = r.Pipe
	env := granted.Grant.Env()
	maps.Copy(env, r.Env)
	out := &device.ContainerReservation{Envs: env}
	if l.config.ReturnMounts {
		out.Mounts, out.Devices = r.Mounts, r.Devices
	}
	l.log.Debug("reserved", "group", granted.Grant.Group, "slices", granted.Grant.Slices, "of", granted.Grant.Total,
		"memory", granted.Grant.Memory)
	return out, nil
}

// withheld returns an error for a grant that Nomad made before it received the news that a GPU is
// withheld: Nomad should place the task elsewhere instead of starting it in vain. Problems that only
// the vendor knows are errors of its Reserve.
func (l *loop) withheld(granted share.Granted) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range granted.Offers {
		if why := cmp.Or(l.stalled, l.refused[o.ID]); why != "" {
			return fmt.Errorf("GPU %s accepts no tasks now: %s", o.ID, why)
		}
	}
	return nil
}
