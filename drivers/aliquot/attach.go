package aliquot

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"

	"aliquot/internal/gpu"
)

// attachment is what a container needs of the host to use a grant, and nothing
// that belongs to another GPU.
type attachment struct {
	how    string // one of the Attach constants
	nodes  []*drivers.DeviceConfig
	mounts []*drivers.MountConfig
	groups []string
	env    map[string]string
}

func (a *attachment) addNode(n *drivers.DeviceConfig) {
	if !slices.ContainsFunc(a.nodes, func(o *drivers.DeviceConfig) bool { return o.TaskPath == n.TaskPath }) {
		a.nodes = append(a.nodes, n)
	}
}

func (a *attachment) addMount(m *drivers.MountConfig) {
	if !slices.ContainsFunc(a.mounts, func(o *drivers.MountConfig) bool { return o.TaskPath == m.TaskPath }) {
		a.mounts = append(a.mounts, m)
	}
}

// visibleDevices is read by NVIDIA's container runtime. The docker driver asks
// for that runtime when it stands in a task's DeviceEnv; "void" makes the runtime
// do nothing where it is the engine's default.
const (
	visibleDevices = "NVIDIA_VISIBLE_DEVICES"
	visibleNone    = "void"
)

// attachTo decides how the task reaches its grant and collects what it needs. It
// is called at every start, because the host may have changed since the grant.
func (s settings) attachTo(g gpu.Grant, task TaskConfig, runtimes []string) (attachment, error) {
	switch g.Vendor {
	case gpu.NVIDIA:
		return s.attachNVIDIA(g, task, runtimes)
	case gpu.AMD:
		return s.attachAMD(g)
	default:
		return attachment{}, fmt.Errorf("the grant is for vendor %q: this driver attaches nvidia and amd", g.Vendor)
	}
}

func (s settings) attachAMD(g gpu.Grant) (attachment, error) {
	nodes, err := s.host.amdNodes(g)
	if err != nil {
		return attachment{}, err
	}
	return attachment{
		how: AttachNodes, nodes: nodes, groups: s.host.gids(nodes, "video", "render"),
		env: map[string]string{visibleDevices: visibleNone},
	}, nil
}

func (s settings) attachNVIDIA(g gpu.Grant, task TaskConfig, runtimes []string) (attachment, error) {
	a, err := s.reachNVIDIA(g, task, runtimes)
	if err != nil {
		return a, err
	}
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
	byRuntime := attachment{how: AttachRuntime, env: map[string]string{visibleDevices: strings.Join(ids, ",")}}
	if s.attach == AttachRuntime {
		return byRuntime, nil
	}
	// A job that names another runtime cannot have NVIDIA's as well.
	free := task.Runtime == "" || task.Runtime == s.runtime
	if s.attach == AttachAuto && free && slices.Contains(runtimes, s.runtime) {
		return byRuntime, nil
	}
	own, err := s.host.nvidiaOwnNodes(g)
	if err != nil {
		return attachment{}, err
	}
	a := attachment{how: AttachNodes}
	if s.attach != AttachNodes {
		specs, broken := s.host.cdiSpecs(s.cdiDirs)
		cdi, err := s.host.cdiAttachment(specs, own)
		switch {
		case err == nil:
			a = cdi
			a.how = AttachCDI
		case s.attach == AttachCDI && len(broken) > 0:
			return a, broken[0]
		case s.attach == AttachCDI:
			return a, err
		}
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
	if a.env == nil {
		a.env = map[string]string{}
	}
	a.env[visibleDevices] = visibleNone
	return a, nil
}

const shm = "/dev/shm"

// addMPS mounts the pipe directory of the GPU's MPS daemon at the same path, and
// the daemon's shared memory: the host's, because the daemon runs on the host.
// docs/decisions/0006-shared-memory-for-mps.md argues for the mount.
func (s settings) addMPS(a *attachment, g gpu.Grant, task TaskConfig) error {
	if g.Pipe == "" {
		return fmt.Errorf("the grant of group %s is shared by MPS but names no pipe directory: is the device plugin of the same release as the driver?", g.Group)
	}
	if rel, err := filepath.Rel(s.runDir, g.Pipe); err != nil || strings.HasPrefix(rel, "..") {
		return fmt.Errorf("the MPS pipe directory %s is not below run_dir %s: set the same run_dir for the device plugin and the driver", g.Pipe, s.runDir)
	}
	if !host("/").exists(g.Pipe + "/control") {
		// The device plugin starts daemons and restarts them after a crash. A task that
		// starts without one would run without limits, and on a GPU that is shared no
		// longer beside the task that holds it.
		return structs.NewRecoverableError(fmt.Errorf("the MPS pipe directory %s of GPU %s has no control socket: its MPS daemon does not run now, or the GPU is shared no longer", g.Pipe, g.Group), true)
	}
	a.addMount(&drivers.MountConfig{HostPath: g.Pipe, TaskPath: g.Pipe})
	if task.IPCMode == "host" {
		return nil
	}
	if task.targets()[shm] {
		return fmt.Errorf("the task mounts %s itself: a GPU shared by MPS needs the host's %s there; drop the mount", shm, shm)
	}
	if s.host.exists(shm) {
		a.addMount(&drivers.MountConfig{HostPath: s.host.path(shm), TaskPath: shm})
	}
	return nil
}

// environment is what the task sees, last wins: the job's with its templates, the
// variant's, the host's for the way of attachment, then what holds the task
// inside its grant.
func environment(job, ofVariant, device map[string]string, a attachment) map[string]string {
	out := map[string]string{}
	for _, layer := range []map[string]string{job, ofVariant, a.env, device} {
		maps.Copy(out, layer)
	}
	if visible, ok := a.env[visibleDevices]; ok {
		out[visibleDevices] = visible
	}
	return out
}
