package aliquot

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"aliquot.example/internal/gpu"
	machine "aliquot.example/internal/host"
)

// The check runs often at first, because most programs open the GPU when they start, and then rarely,
// because each check of MPS starts a process.
const (
	firstCheckInterval = 200 * time.Millisecond
	lastCheckInterval  = 2 * time.Second
	// failStop is the kill timeout of a task that the driver ends.
	failStop = 5 * time.Second
)

// verify checks until a process of the task uses its GPU, the task ends or the deadline has passed, and
// emits an event with the result.
func (d *Driver) verify(t *task, c check) {
	grant, ok, err := gpu.ParseGrant(c.Grant)
	if err != nil || !ok {
		d.log.Error("cannot check the GPU attachment", "task", t.config.Name, "error", err)
		return
	}
	set, _ := d.settings()
	ctx, cancel := context.WithDeadline(t.ctx, time.Unix(c.Until, 0))
	defer cancel()
	var last error
	for wait := firstCheckInterval; ; wait = min(2*wait, lastCheckInterval) {
		pid, err := d.attached(ctx, set, grant, t.container)
		if pid > 0 {
			d.emit(t.config, fmt.Sprintf("GPU attachment verified: process %d %s", pid, holds(grant)),
				map[string]string{"attached": "true", "pid": strconv.Itoa(pid)})
			return
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-time.After(wait):
			continue
		case <-ctx.Done():
		}
		break
	}
	if t.ctx.Err() != nil {
		return // the end of a task is not a failure of attachment
	}
	d.missed(t, c, grant, last)
}

// missed reports a task that did not open its GPU in time, and ends it if the job has
// require_attachment.
func (d *Driver) missed(t *task, c check, grant gpu.Grant, last error) {
	message := fmt.Sprintf("GPU attachment not seen: within %s no process of this task %s", c.Timeout, holds(grant))
	if v, err := vendorOf(grant); err == nil {
		set, _ := d.settings()
		message += v.unseen(t.ctx, look{set, d.mps, t.container}, grant)
	}
	if last != nil {
		message += fmt.Sprintf(" (the last check failed: %v)", last)
	}
	notes := map[string]string{"attached": "false"}
	if !c.Require {
		d.emit(t.config, message, notes)
		return
	}
	failure := fmt.Errorf("%s; require_attachment = true ends the task", message)
	d.emit(t.config, failure.Error(), notes)
	t.fail(failure)
	if err := d.Driver.StopTask(t.config.ID, failStop, ""); err != nil {
		d.log.Error("cannot stop a task that does not use its GPU", "task", t.config.Name, "error", err)
	}
}

// attached returns the PID of a process of the container that uses its GPU now, or 0.
func (d *Driver) attached(ctx context.Context, set settings, g gpu.Grant, container string) (int, error) {
	v, err := vendorOf(g)
	if err != nil {
		return 0, err
	}
	pids, err := v.holders(ctx, look{set, d.mps, container}, g)
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		if inContainer(machine.Running, pid, container) {
			return pid, nil
		}
	}
	return 0, nil
}

// holds returns what a process of an attached task does, to follow "process 12".
func holds(g gpu.Grant) string {
	ids := make([]string, len(g.GPUs))
	for i, id := range g.GPUs {
		ids[i] = string(id)
	}
	names := fmt.Sprintf("%s (%s)", g.Group, strings.Join(ids, " "))
	if v, err := vendorOf(g); err == nil {
		return v.holds(g) + " " + names
	}
	return "has opened " + names
}

// inContainer reports whether a process of this host belongs to a container: the engine names the
// container's control group after the container.
func inContainer(root machine.Root, pid int, container string) bool {
	groups, err := root.Text("/proc", strconv.Itoa(pid), "cgroup")
	return err == nil && container != "" && strings.Contains(groups, container)
}

// openers returns the processes of a container that have one of the device nodes open.
func openers(root machine.Root, container string, nodes []string) []int {
	var out []int
	for _, pid := range root.Numbered("/proc") {
		if inContainer(root, pid, container) && opens(root, pid, nodes) {
			out = append(out, pid)
		}
	}
	return out
}

// inside lists the processes of a container.
func inside(root machine.Root, container string) []int {
	return slices.DeleteFunc(root.Numbered("/proc"), func(pid int) bool { return !inContainer(root, pid, container) })
}

// usersOf returns the distinct users of processes. It ignores processes that have ended.
func usersOf(root machine.Root, pids []int) []uint32 {
	var out []uint32
	for _, pid := range pids {
		info, err := os.Stat(root.Path("/proc", strconv.Itoa(pid)))
		if err != nil {
			continue
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && !slices.Contains(out, stat.Uid) {
			out = append(out, stat.Uid)
		}
	}
	return out
}

func opens(root machine.Root, pid int, nodes []string) bool {
	dir := []string{"/proc", strconv.Itoa(pid), "fd"}
	return slices.ContainsFunc(root.Names(dir...), func(name string) bool {
		to, err := os.Readlink(root.Path(append(dir, name)...))
		return err == nil && slices.Contains(nodes, to)
	})
}
