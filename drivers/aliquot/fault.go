package aliquot

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/nomad/nomad/structs"

	"aliquot.example/internal/gpu"
	machine "aliquot.example/internal/host"
)

const (
	// faultInterval is the interval between two checks of shared servers for faults.
	faultInterval = 2 * time.Second
	// faultTimeout is how long a start waits for the end of a fault: the GPU returns within seconds
	// after the affected tasks have ended.
	faultTimeout = 20 * time.Second
)

// watchFaults stops the tasks of servers in FAULT, until the driver ends. Their CUDA contexts are lost,
// which many programs do not notice, and the GPU serves no other task until these have ended.
func (d *Driver) watchFaults() {
	tick := time.NewTicker(faultInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			d.endFaulted(d.tasks.running())
		case <-d.ctx.Done():
			return
		}
	}
}

// endFaulted checks each shared server once, and stops its tasks if it is in FAULT.
func (d *Driver) endFaulted(running []*task) {
	asked := map[string][]int{}
	for _, t := range running {
		v, err := vendorOf(*t.grant)
		if err != nil || t.isExpected() {
			continue
		}
		server := v.server(*t.grant)
		if server == "" {
			continue
		}
		victims, seen := asked[server]
		if !seen {
			victims, _ = d.faulted(d.ctx, v, *t.grant)
			asked[server] = victims
		}
		if i := slices.IndexFunc(victims, func(pid int) bool {
			return inContainer(machine.Running, pid, t.container)
		}); i >= 0 {
			go d.endVictim(t, v, victims[i])
		}
	}
}

// faulted reports whether a grant's server is in FAULT, and returns the server's clients. A server that
// does not answer counts as not in FAULT, because the device plugin takes care of it.
func (d *Driver) faulted(ctx context.Context, v vendor, g gpu.Grant) ([]int, bool) {
	set, _ := d.settings()
	victims, faulted, err := v.faulted(ctx, look{set: set, mps: d.mps}, g)
	if err != nil {
		d.log.Debug("cannot tell whether a shared server is in fault", "gpu", g.Group, "error", err)
	}
	return victims, faulted
}

func (d *Driver) endVictim(t *task, v vendor, pid int) {
	failure := fmt.Errorf("process %d lost its GPU: %s of %s is in FAULT, "+
		"after an error of this task or of another on "+
		"that GPU; the driver stops the task so that Nomad restarts it", pid, v.serverName, t.grant.Group)
	t.fail(failure)
	d.log.Error(failure.Error(), "task", t.config.Name, "alloc", t.config.AllocID)
	d.emit(t.config, failure.Error(), map[string]string{"fault": "true", "gpu": t.grant.Group})
	if err := d.Driver.StopTask(t.config.ID, failStop, ""); err != nil {
		d.log.Error("cannot stop a task whose server is in FAULT", "task", t.config.Name, "error", err)
	}
}

// awaitServer waits until the server of a grant is not in FAULT. A task that starts earlier would fail
// like the tasks that are being stopped.
func (d *Driver) awaitServer(g gpu.Grant) error {
	v, err := vendorOf(g)
	if err != nil || v.server(g) == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(d.ctx, faultTimeout)
	defer cancel()
	look := time.NewTicker(roomInterval)
	defer look.Stop()
	for {
		if _, faulted := d.faulted(ctx, v, g); !faulted {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return structs.NewRecoverableError(
				fmt.Errorf("%s of %s is in FAULT and accepts no new clients until its present ones have ended",
					v.serverName,
					g.Group), true)
		}
	}
}
