package nvidia

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/hashicorp/nomad/plugins/device"

	"aliquot.example/devices/plugin"
	"aliquot.example/internal/gpu"
	machine "aliquot.example/internal/host"
	kernel "aliquot.example/internal/host/nvidia"
	"aliquot.example/internal/share"
)

// Reserve adds the variables of CUDA and MPS. The daemon of a shared GPU must be running: without it, a
// program would run without MPS and without any limit.
func (v *vendor) Reserve(ctx context.Context, granted share.Granted) (plugin.Reservation, error) {
	g := granted.Grant
	if problem := mismatch(v.cfg.Root, v.lib.path); problem != "" {
		return plugin.Reservation{}, fmt.Errorf("GPU %s accepts no tasks now: %s", g.Group, problem)
	}
	for _, o := range granted.Offers {
		// The GPU failed after Nomad had chosen it. With an error, Nomad places the task elsewhere.
		if problem := v.monitor.problem(physical(o), o.MIG); problem != "" {
			return plugin.Reservation{}, fmt.Errorf("GPU %s accepts no tasks now: %s", o.ID, problem)
		}
	}
	ids := make([]string, len(g.GPUs))
	for i, id := range g.GPUs {
		ids[i] = string(id)
	}
	visible := strings.Join(ids, ",")
	r := plugin.Reservation{Env: map[string]string{"NVIDIA_VISIBLE_DEVICES": visible, "CUDA_VISIBLE_DEVICES": visible}}
	if g.Sharing == gpu.SharingMPS {
		id := g.GPUs[0]
		if err := v.mps.ready(ctx, id); err != nil {
			return plugin.Reservation{}, fmt.Errorf("GPU %s accepts no tasks now: %w", id, err)
		}
		r.Pipe = v.mps.pipe(id)
		r.Env["CUDA_MPS_PIPE_DIRECTORY"] = r.Pipe
		r.Env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = fmt.Sprint(share.Percent(g.Slices, g.Total))
		if g.Memory > 0 {
			// The task sees one GPU, which is its device 0.
			r.Env["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] = fmt.Sprintf("0=%dM", uint64(g.Memory))
		}
		r.Mounts = []*device.Mount{{HostPath: r.Pipe, TaskPath: r.Pipe}}
		if shm := v.mps.shm(id); shm != "" {
			if machine.Running.Exists(shm) { // an older plugin started the daemon without it
				r.Mounts = append(r.Mounts, &device.Mount{HostPath: shm, TaskPath: "/dev/shm"})
			}
		}
	}
	if v.cfg.ReturnMounts {
		nodes, err := kernel.Nodes(machine.Root(v.cfg.Root), g)
		if err != nil {
			return plugin.Reservation{}, err
		}
		for _, path := range nodes {
			r.Devices = append(r.Devices, &device.DeviceSpec{HostPath: filepath.Join(v.cfg.Root, path), TaskPath: path,
				CgroupPerms: "rw"})
		}
	}
	return r, nil
}
