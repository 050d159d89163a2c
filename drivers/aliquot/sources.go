package aliquot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/client/allocdir"
	"github.com/hashicorp/nomad/drivers/docker"
	"github.com/hashicorp/nomad/plugins/drivers"
)

// source is a path of the host that a job mounts into its container.
type source struct {
	option   string // the job's option, for messages
	path     string // absolute
	target   string // in the container
	readonly bool
	bind     bool // a bind mount; else the device of a docker volume
}

// sources lists the paths of the host in a task's volumes, mount and mounts, as the docker driver
// interprets them.
func (c TaskConfig) sources(taskDir string) []source {
	var out []source
	absolute := func(p string) string {
		if filepath.IsAbs(p) {
			return filepath.Clean(p)
		}
		return filepath.Join(taskDir, p)
	}
	for _, v := range c.Volumes {
		f := strings.Split(v, ":")
		if len(f) < 2 || c.VolumeDriver != "" && !filepath.IsAbs(f[0]) {
			continue // the name of a volume; the engine binds a path whatever the volume driver
		}
		mode := strings.Split(strings.Join(f[2:], ":"), ",")
		out = append(out, source{
			option: fmt.Sprintf("volumes %q", v), path: absolute(f[0]), target: f[1],
			readonly: slices.Contains(mode, "ro"), bind: true,
		})
	}
	for _, m := range slices.Concat(c.Mounts, c.MountsList) {
		option := fmt.Sprintf("mount of %q at %q", m.Source, m.Target)
		device := m.VolumeOptions.DriverConfig.Options["device"]
		switch {
		case m.Type == "bind":
			out = append(out, source{option: option, path: absolute(m.Source), target: m.Target, readonly: m.ReadOnly,
				bind: true})
		case device != "":
			// The local volume driver mounts what its options name, seen from the engine's
			// working directory, which is the root.
			out = append(out, source{option: fmt.Sprintf("mount of %q at %q", device, m.Target),
				path: filepath.Join("/", device), target: m.Target, readonly: m.ReadOnly})
		}
	}
	return out
}

// confinePaths restricts a task's mounts to its allocation or, with volumes { enabled }, to paths of the
// host that give no access to GPUs, to the container engine or to other tasks.
func (s settings) confinePaths(cfg *drivers.TaskConfig, task TaskConfig) error {
	if err := realDirectories(cfg); err != nil {
		return err
	}
	asked := task.sources(cfg.TaskDir().Dir)
	if !s.limits.volumes {
		if task.LoadImage != "" {
			asked = append(asked, source{option: fmt.Sprintf("load = %q", task.LoadImage),
				path: filepath.Join(cfg.TaskDir().LocalDir, task.LoadImage), readonly: true})
		}
		for _, a := range asked {
			if err := insideAlloc(cfg.AllocDir, a); err != nil {
				return err
			}
		}
	}
	for _, a := range asked {
		if why := ownsDirectories(cfg.AllocDir, a); why != "" {
			return fmt.Errorf("%s %s, in which a task could replace the directories that are mounted for it: "+
				"mount what is below, or mount it with \"ro\"", a.option, why)
		}
		if !a.readonly && same(a.path, cfg.TaskDir().LogDir) {
			return fmt.Errorf("%s makes the allocation's logs writable, from which Nomad reads as root: "+
				"mount it with \"ro\"", a.option)
		}
		if s.limits.ungranted {
			continue
		}
		if why := s.reserved(a); why != "" {
			return fmt.Errorf("%s %s; %s", a.option, why, liftUngranted)
		}
	}
	for target := range task.targets() {
		if !s.limits.ungranted && asksForGPU(target) {
			return fmt.Errorf("a mount at %s asks the container runtime for a GPU: request one with a device block; %s",
				target, liftUngranted)
		}
	}
	return nil
}

// insideAlloc fails if a path leaves the allocation's directory through a symbolic link. Before
// 2.0.4, Nomad's docker driver compares only text (GH-28177, CVE-2026-14896), and a task can create
// links in its directories. The docker driver itself refuses bind mounts of paths that are outside
// by their text.
func insideAlloc(allocDir string, a source) error {
	rel, err := filepath.Rel(allocDir, a.path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		if a.bind || err != nil {
			return nil
		}
		return fmt.Errorf("%s is outside of the allocation's directory, and volumes are not enabled on this node",
			a.option)
	}
	root, err := os.OpenRoot(allocDir)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := root.Stat(rel); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s leaves the allocation's directory by a symbolic link, "+
			"and volumes are not enabled on this node", a.option)
	}
	return nil
}

// reserved returns why a path of the host must not be mounted even if volumes are enabled, because with
// it a task could use GPUs that it was not granted. It returns "" if the path may be mounted.
func (s settings) reserved(a source) string {
	p := resolved(a.path)
	if why := s.host.holdsHost(p); why != "" {
		return why
	}
	run := resolved(s.runDir)
	switch {
	case within("/proc", p):
		return "shows the files of other tasks' processes"
	case within("/sys", p) && !a.readonly:
		return "contains the registers of every GPU: mount it with \"ro\""
	case within(run, p) || within(p, run):
		return "contains run_dir with the sockets of all GPUs' MPS daemons"
	}
	for _, socket := range s.limits.sockets {
		if socket = resolved(socket); within(p, socket) || within(socket, p) {
			return "contains the container engine's socket, which can start containers with any GPU"
		}
	}
	return ""
}

// localTypes are the types of file systems that a job may mount through the local volume driver:
// parts of the host's, which confinePaths checks, memory, and those of other machines. With others,
// such as proc, cgroup2 or a disk's, a task could control the host.
var localTypes = []string{"none", "bind", "tmpfs", "nfs", "nfs4", "cifs"}

// confineVolumes refuses volumes of the local driver of another type.
func confineVolumes(task TaskConfig) error {
	for _, m := range slices.Concat(task.Mounts, task.MountsList) {
		c := m.VolumeOptions.DriverConfig
		if t := c.Options["type"]; (c.Name == "" || c.Name == "local") && t != "" && !slices.Contains(localTypes, t) {
			return fmt.Errorf("mount of a volume at %q: type = %q of the local volume driver mounts a file system "+
				"of the host: use %s; %s",
				m.Target, t, strings.Join(localTypes, ", "), liftUngranted)
		}
	}
	return nil
}

// resolved resolves the symbolic links in the existing part of a path.
func resolved(p string) string {
	missing := ""
	for p = filepath.Clean(p); ; p = filepath.Dir(p) {
		if r, err := filepath.EvalSymlinks(p); err == nil || p == filepath.Dir(p) {
			return filepath.Join(r, missing)
		}
		missing = filepath.Join(filepath.Base(p), missing)
	}
}

func same(a, b string) bool { return resolved(a) == resolved(b) }

// logMounts returns read-only mounts of the allocation's logs at all places where the task would
// see them: Nomad opens the FIFOs there as root, and would follow a link with which a task has
// replaced one (GH-27918, CVE-2026-6959). From 2.0.1 on, the docker driver does this itself.
func logMounts(cfg *drivers.TaskConfig, task TaskConfig) []*drivers.MountConfig {
	logs := cfg.TaskDir().LogDir
	if _, err := os.Stat(logs); err != nil {
		return nil
	}
	out := []*drivers.MountConfig{{HostPath: logs, TaskPath: path.Join(allocdir.SharedAllocContainerPath,
		allocdir.LogDirName), Readonly: true}}
	for _, a := range task.sources(cfg.TaskDir().Dir) {
		rel, err := filepath.Rel(resolved(a.path), resolved(logs))
		if err == nil && !a.readonly && rel != "." && !strings.HasPrefix(rel, "..") {
			out = append(out, &drivers.MountConfig{HostPath: logs, TaskPath: path.Join(a.target, rel), Readonly: true})
		}
	}
	return out
}

// withoutShm removes mounts of the host's /dev/shm at /dev/shm, which jobs for MPS often have: the
// driver mounts the shared memory of the GPU's daemon there.
func (c TaskConfig) withoutShm(taskDir string) TaskConfig {
	isShm := func(a []source) bool {
		return len(a) == 1 && a[0].bind && a[0].path == shm && filepath.Clean(a[0].target) == shm
	}
	ofVolume := func(v string) bool {
		return isShm(TaskConfig{TaskConfig: docker.TaskConfig{Volumes: []string{v},
			VolumeDriver: c.VolumeDriver}}.sources(taskDir))
	}
	ofMount := func(m docker.DockerMount) bool {
		return isShm(TaskConfig{TaskConfig: docker.TaskConfig{Mounts: []docker.DockerMount{m}}}.sources(taskDir))
	}
	c.Volumes = slices.DeleteFunc(slices.Clone(c.Volumes), ofVolume)
	c.Mounts = slices.DeleteFunc(slices.Clone(c.Mounts), ofMount)
	c.MountsList = slices.DeleteFunc(slices.Clone(c.MountsList), ofMount)
	return c
}
