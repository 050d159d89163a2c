package aliquot

import (
	"fmt"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"

	"aliquot.example/internal/gpu"
)

// handleState is the state of a running task that Nomad stores: the fields of the docker driver's state
// and this driver's. The docker driver ignores the latter.
type handleState struct {
	ReattachConfig *pstructs.ReattachConfig
	ContainerID    string
	DriverNetwork  *drivers.DriverNetwork
	// Check is nil for a task without a GPU.
	Check *check
	// Models is nil for a task without models of the cache.
	Models *modelState
	// Compiled is nil for a task whose compile cache is not published.
	Compiled *compiledState
}

// check is an attachment check in the form that survives a restart of the driver. It contains the grant,
// because Nomad may not have restored the DeviceEnv of a task when the driver recovers it.
type check struct {
	Grant   map[string]string // gpu.Grant.Env
	Require bool
	Timeout time.Duration
	// Until is the deadline in seconds since 1970.
	Until int64
}

// grant returns the task's grant, nil if it has none.
func (c *check) grant() *gpu.Grant {
	if c == nil {
		return nil
	}
	g, ok, err := gpu.ParseGrant(c.Grant)
	if err != nil || !ok {
		return nil
	}
	return &g
}

// follow starts to watch a new task, and stores in its handle what resume needs.
func (d *Driver) follow(handle *drivers.TaskHandle, c *check, b fetched) error {
	var state handleState
	if err := handle.GetDriverState(&state); err != nil {
		return fmt.Errorf("state of task %q: %w", handle.Config.Name, err)
	}
	if c != nil {
		c.Until = time.Now().Add(c.Timeout).Unix()
	}
	if b.compiled != nil && b.compiled.wants != nil {
		image, err := d.imageOf(d.ctx, state.ContainerID)
		if err != nil {
			return fmt.Errorf("image of task %q: %w", handle.Config.Name, err)
		}
		b.compiled.settleImage(image)
	}
	if c != nil || b.models != nil || b.compiled != nil {
		state.Check, state.Models, state.Compiled = c, b.models, b.compiled
		if err := handle.SetDriverState(&state); err != nil {
			return fmt.Errorf("state of task %q: %w", handle.Config.Name, err)
		}
	}
	d.observe(handle.Config, state)
	return nil
}

// resume starts to watch a task that an earlier process of the driver has started.
func (d *Driver) resume(handle *drivers.TaskHandle) error {
	var state handleState
	if err := handle.GetDriverState(&state); err != nil {
		return fmt.Errorf("state of task %q: %w", handle.Config.Name, err)
	}
	if c := state.Check; c != nil && time.Now().Unix() >= c.Until {
		// The deadline passed while the driver was down, or the task was verified long ago. A
		// running task must not be ended for what may have changed since, so check again but
		// only report the result.
		c.Require, c.Until = false, time.Now().Add(c.Timeout).Unix()
	}
	if err := d.keepModels(handle.Config, state.Models); err != nil {
		return fmt.Errorf("models of task %q: %w", handle.Config.Name, err)
	}
	d.observe(handle.Config, state)
	return nil
}

func (d *Driver) observe(cfg *drivers.TaskConfig, state handleState) {
	t := d.tasks.add(d.ctx, cfg, state.ContainerID, state.Check.grant())
	go d.endWith(t)
	if state.Check != nil {
		go d.verify(t, *state.Check)
	}
	if state.Compiled != nil {
		go d.publishCompiled(t, *state.Compiled)
	}
}

// endWith ends the task's context with its container.
func (d *Driver) endWith(t *task) {
	defer t.end()
	exit, err := d.Driver.WaitTask(t.ctx, t.config.ID)
	if err != nil {
		return
	}
	drain(exit)
}

// drain receives until the channel is closed. The docker driver blocks while it sends its result, even
// if nobody waits for it any more.
func drain(exit <-chan *drivers.ExitResult) {
	for range exit {
	}
}
