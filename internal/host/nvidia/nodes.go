// Package nvidia reads the files of NVIDIA's kernel driver, to find the device nodes of a grant and
// of no other GPU.
package nvidia

import (
	"context"
	"fmt"
	"os/exec"
	"path"
	"slices"
	"strings"
	"time"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/host"
)

const (
	proc = "/proc/driver/nvidia"
	gpus = proc + "/gpus"
)

// Loaded reports whether the kernel driver is loaded.
func Loaded(root host.Root) bool { return root.Exists(gpus) }

// Nodes returns the paths of a grant's device nodes and of no other GPU's: the control nodes, then
// OwnNodes. It fails if a node is missing. On the running machine it first runs NVIDIA's program
// that creates missing nodes: after a boot, nothing else creates them until a program uses CUDA
// outside of containers.
func Nodes(root host.Root, g gpu.Grant) ([]string, error) {
	return nodes(root, g, root == host.Running)
}

func nodes(root host.Root, g gpu.Grant, mend bool) ([]string, error) {
	own, err := OwnNodes(root, g)
	if err != nil {
		return nil, err
	}
	paths := append([]string{"/dev/nvidiactl", "/dev/nvidia-uvm"}, own...)
	if mend {
		makeNodes(slices.DeleteFunc(slices.Clone(paths), func(p string) bool { return root.Exists(p) }))
	}
	for _, p := range paths {
		if err := root.Device(p); err != nil {
			return nil, fmt.Errorf("%w: is the NVIDIA driver loaded? nvidia-modprobe -c 0 -u makes the nodes", err)
		}
	}
	if tools := "/dev/nvidia-uvm-tools"; root.Exists(tools) {
		paths = append(paths, tools)
	}
	return paths, nil
}

// makeTime is how long creating nodes, which loads a kernel module, may take.
const makeTime = 10 * time.Second

// makeNodes runs nvidia-modprobe, which loads nvidia-uvm and creates missing nodes. It returns no
// error; the caller checks the nodes, because a host without the program may create them in another
// way.
func makeNodes(missing []string) {
	if len(missing) == 0 {
		return
	}
	args := []string{"-u", "-c", "0"}
	for _, p := range missing {
		if minor, ok := strings.CutPrefix(p, "/dev/nvidia"); ok && minor != "0" &&
			strings.Trim(minor, "0123456789") == "" {
			args = append(args, "-c", minor)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), makeTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nvidia-modprobe", args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"} // the agent's variables may contain tokens
	cmd.WaitDelay = time.Second
	_ = cmd.Run()
}

// OwnNodes returns the paths of the nodes that belong only to the granted GPUs: the node of each
// GPU by its minor number and, for MIG devices, the capability nodes of their GPU instance and
// compute instance.
func OwnNodes(root host.Root, g gpu.Grant) ([]string, error) {
	var paths []string
	add := func(list ...string) {
		for _, p := range list {
			if !slices.Contains(paths, p) {
				paths = append(paths, p)
			}
		}
	}
	for i, id := range g.GPUs {
		if i >= len(g.PCI) || g.PCI[i] == "" {
			return nil, fmt.Errorf(
				"the grant names no PCI address for GPU %s: "+
					"is the device plugin of the same release as the driver?", id)
		}
		minor, err := minorOf(root, id, g.PCI[i])
		if err != nil {
			return nil, err
		}
		add(fmt.Sprintf("/dev/nvidia%d", minor))
		if g.Sharing != gpu.SharingMIG {
			continue
		}
		if i >= len(g.MIG) {
			return nil, fmt.Errorf("the grant has no GPU instance for MIG device %s", id)
		}
		caps, err := capabilities(root, minor, g.MIG[i])
		if err != nil {
			return nil, fmt.Errorf("MIG device %s: %w", id, err)
		}
		add(caps...)
	}
	return paths, nil
}

// minorOf returns the minor number of a GPU's device node. The grant of a task that has survived a
// reboot has the GPU's former address, where another GPU may be now.
func minorOf(root host.Root, id gpu.ID, pci string) (int, error) {
	information := path.Join(gpus, host.KernelPCI(pci), "information")
	if other := uuid(root, information); other != "" && other != id && strings.HasPrefix(string(id), "GPU-") {
		now := ""
		for _, address := range root.Names(gpus) {
			if file := path.Join(gpus, address, "information"); uuid(root, file) == id {
				now = file
			}
		}
		if now == "" {
			return 0, fmt.Errorf("GPU %s is no longer on the host, and its address %s now has %s: "+
				"its task needs a new placement",
				id, pci, other)
		}
		information = now
	}
	minor, err := root.NumberField(information, "Device Minor")
	if err != nil {
		return 0, fmt.Errorf("the host's NVIDIA driver does not know GPU %s at %s: %w", id, pci, err)
	}
	return minor, nil
}

// uuid returns a GPU's UUID, or "" if the driver does not show it: it shows question marks until a
// program has opened the GPU.
func uuid(root host.Root, information string) gpu.ID {
	text, _ := root.Field(information, "GPU UUID")
	if !strings.HasPrefix(text, "GPU-") || strings.Contains(text, "?") {
		return ""
	}
	return gpu.ID(text)
}

// capabilities returns the capability nodes of the MIG device "<gi>/<ci>" on the
// GPU of a minor number.
func capabilities(root host.Root, minor int, mig string) ([]string, error) {
	gi, ci, ok := strings.Cut(mig, "/")
	if !ok || strings.Trim(gi+ci, "0123456789") != "" || gi == "" || ci == "" {
		return nil, fmt.Errorf("%q is not a GPU instance and compute instance: want for example \"7/0\"", mig)
	}
	base := fmt.Sprintf("%s/capabilities/gpu%d/mig/gi%s", proc, minor, gi)
	var out []string
	for _, access := range []string{base + "/access", base + "/ci" + ci + "/access"} {
		n, err := root.NumberField(access, "DeviceFileMinor")
		if err != nil {
			return nil, err
		}
		out = append(out, fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", n))
	}
	return out, nil
}
