package aliquot

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/hashicorp/nomad/plugins/drivers"

	"aliquot.example/internal/gpu"
)

// limits is what the operator allows jobs to use of the host beyond their grants.
type limits struct {
	privileged bool // allow_privileged
	volumes    bool // volumes { enabled }
	ungranted  bool // allow_ungranted_gpus
	// devices are device nodes that jobs may use although nodes of their kind are refused.
	devices []string // allowed_devices
	modes   AllowedModes
	// sockets are the container engine's sockets, and directories of them. A program that can
	// connect to them controls the host.
	sockets []string
}

// AllowedModes is the block allowed_modes: patterns of the values that jobs may
// give to options that share a namespace of the host or of another container.
type AllowedModes struct {
	PID    []string `codec:"pid"`
	IPC    []string `codec:"ipc"`
	UserNS []string `codec:"userns"`
	UTS    []string `codec:"uts"`
}

// liftDevices says which options allow a refused device.
const liftDevices = `the operator can allow one device node with allowed_devices, and all with ` +
	`allow_ungranted_gpus = true, in plugin "aliquot-driver"`

// liftUngranted says which option allows what is refused.
const liftUngranted = `the operator can allow it with allow_ungranted_gpus = true in plugin "aliquot-driver"`

// confine refuses configurations with which a task could exceed its grant or the operator's limits, and
// returns the configuration that the docker driver may get.
func (s settings) confine(cfg *drivers.TaskConfig, task TaskConfig, grant *gpu.Grant) (TaskConfig, error) {
	for _, check := range []func(*drivers.TaskConfig, TaskConfig) error{s.confineModes, s.confinePaths} {
		if err := check(cfg, task); err != nil {
			return task, err
		}
	}
	if err := confineProfiles(task); err != nil {
		return task, err
	}
	if s.limits.ungranted {
		return task, nil
	}
	for _, check := range []func(TaskConfig) error{confineVolumes, confineCgroup, s.confineRights} {
		if err := check(task); err != nil {
			return task, err
		}
	}
	if err := s.confineRuntime(cfg, task, grant); err != nil {
		return task, err
	}
	return s.confineDevices(task)
}

// confineModes restricts the namespaces of a task to allowed_modes. Nomad's docker driver does so from
// 2.0.4 on (GH-28190, CVE-2026-14891). Before, it passes the job's values to the engine.
func (s settings) confineModes(_ *drivers.TaskConfig, task TaskConfig) error {
	if s.limits.privileged {
		return nil
	}
	for _, m := range []struct {
		option, value, key string
		allowed            []string
	}{
		{"pid_mode", task.PidMode, "pid", s.limits.modes.PID},
		{"ipc_mode", task.IPCMode, "ipc", s.limits.modes.IPC},
		{"uts_mode", task.UTSMode, "uts", s.limits.modes.UTS},
		{"userns_mode", task.UsernsMode, "userns", s.limits.modes.UserNS},
	} {
		if !ownNamespace(m.value) && !matches(m.allowed, m.value) {
			return fmt.Errorf(
				`%s = %q is not allowed on this node: the operator can add it to allowed_modes { %s = [...] } of `+
					`plugin "aliquot-driver"`, m.option, m.value, m.key)
		}
	}
	return nil
}

// ownNamespace reports whether a mode shares no namespace with the host or another container. A
// shareable namespace is shared only if another container requests it with container:….
func ownNamespace(mode string) bool {
	return slices.Contains([]string{"", "none", "private", "shareable"}, mode)
}

// strongCaps are capabilities with which a process can bypass the device cgroup, which restricts a
// container to its device nodes: through other cgroups, through eBPF programs, through files of the host
// that it opens by handle, through the kernel itself or through the registers of the PCI bus.
var strongCaps = []string{"ALL", "BPF", "DAC_READ_SEARCH", "SYS_ADMIN", "SYS_MODULE", "SYS_RAWIO"}

// confineRights refuses rights with which a task could bypass any grant.
func (s settings) confineRights(task TaskConfig) error {
	if task.Privileged && s.limits.privileged {
		return fmt.Errorf("privileged = true gives the task every GPU of the host, granted or not: %s", liftUngranted)
	}
	for _, name := range task.CapAdd {
		if slices.Contains(strongCaps, strings.TrimPrefix(strings.ToUpper(strings.TrimSpace(name)), "CAP_")) {
			return fmt.Errorf("cap_add: %s lets the task open every GPU of the host, granted or not: %s", name,
				liftUngranted)
		}
	}
	if task.PidMode == "host" || strings.HasPrefix(task.PidMode, "container:") {
		return fmt.Errorf("pid_mode = %q lets the task use GPUs that processes of other tasks have open: %s",
			task.PidMode, liftUngranted)
	}
	return nil
}

// confineRuntime refuses a vendor's container runtime to a task that was granted no
// GPU of that vendor.
func (s settings) confineRuntime(cfg *drivers.TaskConfig, task TaskConfig, grant *gpu.Grant) error {
	vendor := s.runtimeOf(task.Runtime)
	if vendor == "" || grant != nil && grant.Vendor == vendor || ofOtherPlugin(cfg, grant) {
		return nil
	}
	return fmt.Errorf("runtime = %q provides %s GPUs, but the task was granted none: "+
		"request one with a device block; %s", task.Runtime, vendor, liftUngranted)
}

// ofOtherPlugin reports whether a device plugin that is not Aliquot's, such as nomad-device-nvidia,
// granted GPUs that NVIDIA's runtime provides.
func ofOtherPlugin(cfg *drivers.TaskConfig, grant *gpu.Grant) bool {
	return grant == nil && cfg.DeviceEnv[visibleDevices] != ""
}

// confineDevices refuses GPU nodes among the task's devices, whatever their names are, and nodes of
// other hardware of the host, such as its disks. It replaces each path by the resolved one, so that the
// path cannot lead to another node when the engine opens it. It accepts nodes that the operator allows,
// such as the render node of a graphics adapter that no plugin offers.
func (s settings) confineDevices(task TaskConfig) (TaskConfig, error) {
	task.Devices = slices.Clone(task.Devices)
	for i, d := range task.Devices {
		path, err := s.host.harmlessNode(d.HostPath)
		if node := resolved(d.HostPath); err != nil && s.allowedDevice(node) {
			path, err = node, nil
		}
		if err != nil {
			return task, fmt.Errorf("devices: %w; %s", err, liftDevices)
		}
		if path != d.HostPath && d.ContainerPath == "" {
			task.Devices[i].ContainerPath = d.HostPath
		}
		task.Devices[i].HostPath = path
	}
	return task, nil
}

// allowedDevice reports whether the operator allows a node, by its path or by a link to it. It does not
// accept directories, because an operator who allows one node has not seen the others.
func (s settings) allowedDevice(node string) bool {
	info, err := os.Stat(node)
	if err != nil || info.Mode()&fs.ModeDevice == 0 {
		return false
	}
	return slices.ContainsFunc(s.limits.devices, func(allowed string) bool {
		return node == resolved(allowed) || node == resolved(s.host.path(allowed))
	})
}

// harmlessNode returns the path to which a device path resolves, or an error if a job may not use it. It
// accepts paths that do not exist; the engine reports those.
func (h host) harmlessNode(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	if !filepath.IsAbs(path) {
		// An engine that knows the Container Device Interface takes vendor.com/gpu=all.
		return "", fmt.Errorf("%s is not an absolute path; only a device block grants GPUs", path)
	}
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		resolved = filepath.Clean(path)
	}
	if !within("/dev", resolved) && !within(h.path("/dev"), resolved) {
		// A container can create device nodes in its allocation's directory.
		return "", fmt.Errorf("%s is not in /dev", path)
	}
	for _, dir := range filesOfTasks {
		if within(dir, resolved) || within(h.path(dir), resolved) {
			return "", fmt.Errorf("%s is in %s, where tasks can create device nodes", path, dir)
		}
	}
	if why := h.holdsHost(resolved); why != "" {
		return "", fmt.Errorf("%s %s", path, why)
	}
	if info, err := os.Stat(resolved); err == nil && info.IsDir() {
		if why := h.holdsHostBelow(resolved); why != "" {
			return "", fmt.Errorf("%s contains %s", path, why)
		}
	}
	return resolved, nil
}

// holdsHost returns why a job may not use a resolved path, or "" if it may. The path may be a GPU's
// node, a directory of them, or other hardware such as a disk.
func (h host) holdsHost(path string) string {
	ofHost := path
	if rel, ok := strings.CutPrefix(path, strings.TrimSuffix(string(h), "/")+"/"); ok {
		ofHost = "/" + rel
	}
	for _, p := range []string{path, ofHost} {
		if isGPUNode(p) {
			return "is a device node of GPUs"
		}
		if holdsGPUNodes(p) {
			return "contains the device nodes of GPUs"
		}
		if is := hardwareAt(p); is != "" {
			return is
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch mode := info.Mode(); {
	case !ok || mode&fs.ModeDevice == 0:
		return ""
	case mode&fs.ModeCharDevice == 0:
		return "is a disk of the host"
	case h.gpuMajors()[major(stat.Rdev)]:
		return "is a device node of GPUs"
	default:
		return h.hardwareOf(stat.Rdev)
	}
}

// holdsHostBelow is like holdsHost for the content of a directory: the engine passes every node in it to
// the container.
func (h host) holdsHostBelow(dir string) string {
	why := ""
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeDevice == 0 {
			return nil
		}
		if found := h.holdsHost(path); found != "" {
			why = path + ", which " + found
			return filepath.SkipAll
		}
		return nil
	})
	return why
}
