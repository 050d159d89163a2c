package aliquot

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"

	"aliquot.example/internal/gpu"
	machine "aliquot.example/internal/host"
	kernel "aliquot.example/internal/host/nvidia"
)

var nvidia = vendor{
	of:      gpu.NVIDIA,
	present: func(h host) bool { return kernel.Loaded(h.root()) },
	attributes: func(s settings, runtimes []string) map[string]string {
		return map[string]string{"attach": nvidiaAttach(s, runtimes)}
	},
	attach:  attachNVIDIA,
	holders: nvidiaHolders,
	holds: func(g gpu.Grant) string {
		if g.Sharing == gpu.SharingMPS {
			return "is a client of the MPS daemon of"
		}
		return "has opened"
	},
	unseen: mpsUnseen,
	server: func(g gpu.Grant) string {
		if g.Sharing == gpu.SharingMPS {
			return g.Pipe
		}
		return ""
	},
	serverName: "the MPS server",
	limits:     holdsNVIDIA,
	limit:      limitNVIDIA,
	faulted: func(ctx context.Context, at look, g gpu.Grant) ([]int, bool, error) {
		return at.mps.Faulted(ctx, at.set.mpsControl, g.Pipe)
	},
	percent: "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
}

// nvidiaNodes returns the device nodes of a grant and no other GPU's.
func (h host) nvidiaNodes(g gpu.Grant) ([]*drivers.DeviceConfig, error) {
	paths, err := kernel.Nodes(h.root(), g)
	if err != nil {
		return nil, err
	}
	return h.nodes(paths)
}

// nvidiaHolders returns the clients of the grant's MPS daemon, which serves one GPU, or else the
// processes that have opened the grant's device nodes.
func nvidiaHolders(ctx context.Context, at look, g gpu.Grant) ([]int, error) {
	if g.Sharing == gpu.SharingMPS {
		return at.mps.Clients(ctx, at.set.mpsControl, g.Pipe)
	}
	nodes, err := kernel.OwnNodes(at.set.host.root(), g)
	if err != nil {
		return nil, err
	}
	return openers(machine.Running, at.container, nodes), nil
}

// nvidiaAttach returns how this node attaches NVIDIA GPUs to containers, except for tasks that need
// another way.
func nvidiaAttach(s settings, runtimes []string) string {
	switch {
	case s.attach != AttachAuto:
		return s.attach
	case slices.Contains(runtimes, s.runtime):
		return AttachRuntime
	}
	if specs, _ := s.host.cdiSpecs(s.cdiDirs); len(specs) > 0 {
		return AttachCDI
	}
	return AttachNodes
}

func attachNVIDIA(s settings, g gpu.Grant, task TaskConfig, runtimes []string) (attachment, error) {
	a, err := s.reachNVIDIA(g, task, runtimes)
	if err != nil {
		return a, err
	}
	a.last = s.cudaVisible(g, task)
	if g.Sharing == gpu.SharingMPS {
		err = s.addMPS(&a, g, task)
	}
	return a, err
}

func (s settings) reachNVIDIA(g gpu.Grant, task TaskConfig, runtimes []string) (attachment, error) {
	ids := make([]string, len(g.GPUs))
	for i, id := range g.GPUs {
		ids[i] = string(id)
	}
	visible := strings.Join(ids, ",")
	byRuntime := attachment{how: AttachRuntime, env: map[string]string{visibleDevices: visible, swarmResource: visible}}
	// The runtime adds the nodes to the container without the engine's knowledge. When systemd is
	// reloaded, it removes access to nodes that the engine does not know
	// (nvidia-container-toolkit#48), so the engine gets them, too.
	if nodes, err := s.host.nvidiaNodes(g); err == nil {
		byRuntime.nodes = nodes
	}
	if s.attach == AttachRuntime {
		return byRuntime, nil
	}
	// A job that names another runtime cannot have NVIDIA's as well.
	free := task.Runtime == "" || task.Runtime == s.runtime
	if s.attach == AttachAuto && free && slices.Contains(runtimes, s.runtime) {
		return byRuntime, nil
	}
	own, err := kernel.OwnNodes(s.host.root(), g)
	if err != nil {
		return attachment{}, err
	}
	a, err := s.attachCDI(own)
	if err != nil {
		return a, err
	}
	nodes, err := s.host.nvidiaNodes(g)
	if err != nil {
		return a, err
	}
	for _, n := range nodes {
		a.addNode(n)
	}
	a.groups = s.host.gids(a.nodes)
	if task.DriverLibraries {
		for _, m := range s.host.libraryMounts() {
			a.addMount(m)
		}
	}
	return a, nil
}

// attachCDI returns the attachment of the CDI specifications for the nodes. If none has the nodes, it
// returns only the nodes, or an error with attach = "cdi".
func (s settings) attachCDI(nodes []string) (attachment, error) {
	plain := attachment{how: AttachNodes}
	if s.attach == AttachNodes {
		return plain, nil
	}
	specs, broken := s.host.cdiSpecs(s.cdiDirs)
	a, err := s.host.cdiAttachment(specs, nodes)
	switch {
	case err == nil:
		a.how = AttachCDI
		return a, nil
	case s.attach == AttachCDI && len(broken) > 0:
		return plain, broken[0]
	case s.attach == AttachCDI:
		return plain, err
	}
	return plain, nil
}

const shm = "/dev/shm"

// addMPS mounts the pipe directory of the GPU's MPS daemon at the same path, and the daemon's shared
// memory: the GPU's own, which the device plugin mounts beside the pipe directory, or the host's if the
// daemon uses that. docs/decisions/0006-shared-memory-for-mps.md gives the reasons.
func (s settings) addMPS(a *attachment, g gpu.Grant, task TaskConfig) error {
	if g.Pipe == "" {
		return fmt.Errorf("the grant of group %s is shared by MPS but names no pipe directory: "+
			"is the device plugin of the same release as the driver?", g.Group)
	}
	if rel, err := filepath.Rel(s.runDir, g.Pipe); err != nil || strings.HasPrefix(rel, "..") {
		return fmt.Errorf("the MPS pipe directory %s is not below run_dir %s: "+
			"set the same run_dir for the device plugin and the driver", g.Pipe, s.runDir)
	}
	if !host("/").exists(g.Pipe + "/control") {
		// The device plugin starts daemons and restarts them after a crash. Without a daemon, a
		// task would run without limits. If the GPU is no longer shared, it would run beside the
		// task that holds the GPU.
		return structs.NewRecoverableError(
			fmt.Errorf("the MPS pipe directory %s of GPU %s has no control socket: its MPS daemon is not running, "+
				"or the GPU is no longer shared", g.Pipe, g.Group), true)
	}
	a.addMount(&drivers.MountConfig{HostPath: g.Pipe, TaskPath: g.Pipe})
	own := filepath.Join(filepath.Dir(g.Pipe), "shm")
	ofGPU := host("/").exists(own)
	if task.IPCMode == "host" && !ofGPU {
		return nil
	}
	if task.targets()[shm] {
		return fmt.Errorf("the task mounts %s itself: a GPU shared by MPS needs the shared memory of its MPS daemon "+
			"there; remove the mount", shm)
	}
	switch {
	case ofGPU:
		a.addMount(&drivers.MountConfig{HostPath: own, TaskPath: shm})
	case s.host.exists(shm):
		a.addMount(&drivers.MountConfig{HostPath: s.host.path(shm), TaskPath: shm})
	}
	return nil
}
