package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/nomad/plugins/device"

	"aliquot.example/e2e/conformance"
	"aliquot.example/internal/gpu"
	"aliquot.example/internal/mps"
)

// counts are the numbers of slices to try, of 20.
var counts = []int{1, 2, 5, 6, 10, 15, 20}

// stepMiB is the size of the allocations that find the memory limit.
const stepMiB = 64

// check prints the groups and, for the first healthy one, what was granted and what a client saw.
func check(ctx context.Context, plugin *conformance.Running, groups []*device.DeviceGroup, program string,
	sms int) error {
	var group *device.DeviceGroup
	for _, g := range groups {
		show(g)
		if group == nil && g.Devices[0].Healthy {
			group = g
		}
	}
	var ids []string
	for _, d := range group.Devices {
		ids = append(ids, d.ID)
	}
	slices.Sort(ids)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "slices\tpercent\tgranted SMs\tseen SMs\tgranted MiB\tallocated MiB\tMPS client\t")
	var wrong []error
	for _, n := range counts {
		if n > len(ids) {
			continue
		}
		r, err := measure(ctx, plugin, ids[:n], program)
		if err != nil {
			table.Flush()
			return fmt.Errorf("%d slices: %w", n, err)
		}
		fmt.Fprintf(table, "%d/%d\t%s\t%d\t%d\t%d\t%d\t%v\t\n", n, len(ids), r.percent, r.grant.Units, r.sms,
			r.grant.Memory, r.allocated, r.attached)
		wrong = append(wrong, r.verdict(n, sms))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	wrong = append(wrong, together(ctx, plugin, ids, program))
	if err := errors.Join(wrong...); err != nil {
		return err
	}
	fmt.Println("ok: every client was attached and stayed within its grant")
	return nil
}

func show(g *device.DeviceGroup) {
	fmt.Printf("group %s/%s/%s: %d instances, healthy %v %s\n", g.Vendor, g.Type, g.Name, len(g.Devices),
		g.Devices[0].Healthy, g.Devices[0].HealthDesc)
	var keys []string
	for k := range g.Attributes {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		fmt.Printf("  %-20s %s\n", k, g.Attributes[k].GoString())
	}
}

type result struct {
	grant     gpu.Grant
	percent   string
	sms       int
	allocated int
	attached  bool
}

// verdict compares what the client saw with its grant. The hardware rounds the number of SMs to a
// multiple of at most two.
func (r result) verdict(n, sms int) error {
	const step = 2
	switch {
	case !r.attached:
		return fmt.Errorf("%d slices: the client is not in the MPS daemon's list", n)
	case r.sms > r.grant.Units+step:
		return fmt.Errorf("%d slices: the client sees %d SMs, granted are %d of %d", n, r.sms, r.grant.Units, sms)
	case gpu.MiB(r.allocated) > r.grant.Memory:
		return fmt.Errorf("%d slices: the client allocated %d MiB, granted are %s", n, r.allocated, r.grant.Memory)
	}
	return nil
}

func measure(ctx context.Context, plugin *conformance.Running, ids []string, program string) (result, error) {
	var r result
	env, err := r.reserve(plugin, ids)
	if err != nil {
		return r, err
	}
	c, err := launch(ctx, program, env, stepMiB)
	if err != nil {
		return r, err
	}
	r.sms, r.allocated = c.number("sms"), c.number("allocated_mib")
	r.attached, err = attached(ctx, r.grant.Pipe, c.cmd.Process.Pid)
	return r, errors.Join(err, c.close())
}

func (r *result) reserve(plugin *conformance.Running, ids []string) (map[string]string, error) {
	answer, err := plugin.Reserve(ids)
	if err != nil {
		return nil, err
	}
	grant, ok, err := gpu.ParseGrant(answer.Envs)
	if err != nil || !ok {
		return nil, fmt.Errorf("no grant in the reservation: %w", err)
	}
	r.grant, r.percent = grant, answer.Envs["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"]
	return answer.Envs, nil
}

// together runs two clients with different grants at the same time on one GPU.
func together(ctx context.Context, plugin *conformance.Running, ids []string, program string) error {
	if len(ids) < 16 {
		return nil
	}
	var a, b result
	envA, errA := a.reserve(plugin, ids[:6])
	envB, errB := b.reserve(plugin, ids[6:16])
	if err := errors.Join(errA, errB); err != nil {
		return err
	}
	first, err := launch(ctx, program, envA, 0)
	if err != nil {
		return err
	}
	defer first.close()
	second, err := launch(ctx, program, envB, 0)
	if err != nil {
		return err
	}
	defer second.close()
	for c, r := range map[*client]result{first: a, second: b} {
		ok, err := attached(ctx, r.grant.Pipe, c.cmd.Process.Pid)
		if err != nil || !ok {
			return fmt.Errorf("two clients at once: PID %d is not in the daemon's list: %w", c.cmd.Process.Pid, err)
		}
	}
	fmt.Printf("two clients at once: %d slices see %d SMs, %d slices see %d SMs\n", a.grant.Slices, first.number("sms"),
		b.grant.Slices, second.number("sms"))
	return nil
}

// attached waits a short time for the MPS daemon to list the client, and reports whether it does.
func attached(ctx context.Context, pipe string, pid int) (bool, error) {
	control := mps.Control{Program: mps.Program, Pipe: pipe}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		clients, err := control.Clients(ctx)
		if slices.Contains(clients, pid) {
			return true, nil
		}
		select {
		case <-ctx.Done():
			return false, err
		case <-tick.C:
		}
	}
}
