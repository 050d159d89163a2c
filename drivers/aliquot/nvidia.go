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

// nvidiaHolders asks the MPS daemon for its clients, which are those of one GPU,
// or looks for open device nodes.
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

// nvidiaAttach names the way in which NVIDIA GPUs reach containers here, as far as
// it does not depend on the task.
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
	// The runtime gives the nodes to the container behind the engine's back, and systemd
	// takes them away again when it is reloaded (nvidia-container-toolkit#48): it must
	// know them from the engine.
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

// attachCDI attaches what CDI specifications say of the nodes, and where attach does not
// ask for CDI and none names them, the nodes alone.
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

// addMPS mounts the pipe directory of the GPU's MPS daemon at the same path, and the
// daemon's shared memory: the GPU's own, which the device plugin mounts beside the
// pipe directory, or the host's where the daemon has that.
// docs/decisions/0006-shared-memory-for-mps.md argues for the mount.
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
		// The device plugin starts daemons and restarts them after a crash. A task that
		// starts without one would run without limits, and on a GPU that is shared no
		// longer beside the task that holds it.
		return structs.NewRecoverableError(
			fmt.Errorf("the MPS pipe directory %s of GPU %s has no control socket: its MPS daemon does not run now, "+
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
			"there; drop the mount", shm)
	}
	switch {
	case ofGPU:
		a.addMount(&drivers.MountConfig{HostPath: own, TaskPath: shm})
	case s.host.exists(shm):
		a.addMount(&drivers.MountConfig{HostPath: s.host.path(shm), TaskPath: shm})
	}
	return nil
}
