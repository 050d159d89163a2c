package nvidia

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/plugins/device"

	"aliquot/devices/plugin"
	"aliquot/internal/gpu"
	"aliquot/internal/share"
)

// Reserve adds CUDA's and MPS's variables. A shared GPU must have its daemon: a
// program that finds none runs without MPS and without any limit.
func (v *vendor) Reserve(ctx context.Context, granted share.Granted) (plugin.Reservation, error) {
	g := granted.Grant
	if problem := mismatch(v.cfg.Root); problem != "" {
		return plugin.Reservation{}, fmt.Errorf("GPU %s takes no task now: %s", g.Group, problem)
	}
	for _, o := range granted.Offers {
		// It failed after Nomad had chosen it: another place is better than a start
		// that cannot succeed.
		if problem := v.ward.problem(physical(o), o.MIG); problem != "" {
			return plugin.Reservation{}, fmt.Errorf("GPU %s takes no task now: %s", o.ID, problem)
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
			return plugin.Reservation{}, fmt.Errorf("GPU %s takes no task now: %w", id, err)
		}
		r.Pipe = v.mps.pipe(id)
		r.Env["CUDA_MPS_PIPE_DIRECTORY"] = r.Pipe
		r.Env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = fmt.Sprint(share.Percent(g.Slices, g.Total))
		if g.Memory > 0 {
			// The task sees one GPU, which is its device 0.
			r.Env["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] = fmt.Sprintf("0=%dM", uint64(g.Memory))
		}
		r.Mounts = []*device.Mount{{HostPath: r.Pipe, TaskPath: r.Pipe}}
	}
	if v.cfg.ReturnMounts {
		nodes, err := v.nodes(granted)
		if err != nil {
			return plugin.Reservation{}, err
		}
		for _, path := range nodes {
			r.Devices = append(r.Devices, &device.DeviceSpec{HostPath: filepath.Join(v.cfg.Root, path), TaskPath: path, CgroupPerms: "rw"})
		}
	}
	return r, nil
}

// nodes lists the device nodes of a grant, as seen under the root.
func (v *vendor) nodes(granted share.Granted) ([]string, error) {
	nodes := []string{"/dev/nvidiactl"}
	for _, optional := range []string{"/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"} {
		if _, err := os.Stat(filepath.Join(v.cfg.Root, optional)); err == nil {
			nodes = append(nodes, optional)
		}
	}
	for _, o := range granted.Offers {
		minor, err := v.minor(o.PCI)
		if err != nil {
			return nil, fmt.Errorf("GPU %s: %w", o.ID, err)
		}
		if node := "/dev/nvidia" + minor; !slices.Contains(nodes, node) {
			nodes = append(nodes, node)
		}
		if o.MIG == "" {
			continue
		}
		gi, ci, _ := strings.Cut(o.MIG, "/")
		caps := fmt.Sprintf("proc/driver/nvidia/capabilities/gpu%s/mig/gi%s/", minor, gi)
		for _, access := range []string{caps + "access", caps + "ci" + ci + "/access"} {
			n, err := v.lookup(access, capabilityMinor)
			if err != nil {
				return nil, fmt.Errorf("MIG device %s: %w", o.ID, err)
			}
			nodes = append(nodes, "/dev/nvidia-caps/nvidia-cap"+n)
		}
	}
	return nodes, nil
}

var (
	deviceMinor     = regexp.MustCompile(`(?m)^Device Minor:\s*(\d+)`)
	capabilityMinor = regexp.MustCompile(`(?m)^DeviceFileMinor:\s*(\d+)`)
)

// minor is the number of a GPU's device node.
func (v *vendor) minor(pci string) (string, error) {
	return v.lookup(filepath.Join("proc/driver/nvidia/gpus", pci, "information"), deviceMinor)
}

func (v *vendor) lookup(path string, pattern *regexp.Regexp) (string, error) {
	path = filepath.Join(v.cfg.Root, path)
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	m := pattern.FindSubmatch(text)
	if m == nil {
		return "", fmt.Errorf("%s does not tell a device minor number", path)
	}
	return string(m[1]), nil
}
