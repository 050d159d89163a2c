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
	// faultLook is how often servers that tasks share are asked for a fault.
	faultLook = 2 * time.Second
	// faultWait is how long a start waits for one to be over: its GPU comes back within
	// seconds of the end of the tasks that it hit.
	faultWait = 20 * time.Second
)

// watchFaults ends the tasks of a server that is in fault, for as long as the driver
// lives. Their contexts are dead, which many programs do not notice, and the GPU serves
// nobody until they are gone.
func (d *Driver) watchFaults() {
	tick := time.NewTicker(faultLook)
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

// endFaulted looks once, asking each shared server once.
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

// faulted returns the processes that a server in fault keeps, and whether it is. A
// server that cannot be asked is no fault: the device plugin looks after it.
func (d *Driver) faulted(ctx context.Context, v vendor, g gpu.Grant) ([]int, bool) {
	set, _ := d.settings()
	victims, faulted, err := v.faulted(ctx, look{set: set, mps: d.mps}, g)
	if err != nil {
		d.log.Debug("cannot tell whether a shared server is in fault", "gpu", g.Group, "error", err)
	}
	return victims, faulted
}

func (d *Driver) endVictim(t *task, v vendor, pid int) {
	failure := fmt.Errorf("process %d lost its GPU: %s of %s is in FAULT, by an error of this task or of another on "+
		"that GPU; the task is ended so that Nomad starts it again", pid, v.serverName, t.grant.Group)
	t.fail(failure)
	d.log.Error(failure.Error(), "task", t.config.Name, "alloc", t.config.AllocID)
	d.emit(t.config, failure.Error(), map[string]string{"fault": "true", "gpu": t.grant.Group})
	if err := d.Driver.StopTask(t.config.ID, failStop, ""); err != nil {
		d.log.Error("a task of a faulted server cannot be stopped", "task", t.config.Name, "error", err)
	}
}

// awaitServer waits until the server that a grant shares is in no fault: a task that
// starts before would fail as those did that are being ended.
func (d *Driver) awaitServer(g gpu.Grant) error {
	v, err := vendorOf(g)
	if err != nil || v.server(g) == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(d.ctx, faultWait)
	defer cancel()
	look := time.NewTicker(roomLook)
	defer look.Stop()
	for {
		if _, faulted := d.faulted(ctx, v, g); !faulted {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return structs.NewRecoverableError(
				fmt.Errorf("%s of %s is in FAULT and accepts no new clients until its present ones have ended", v.serverName,
					g.Group), true)
		}
	}
}
