package aliquot

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/variant"
)

// start is the result of prepare: the docker driver's configuration and what StartTask does around it.
type start struct {
	config  *drivers.TaskConfig
	message string
	notes   map[string]string
	check   *check
	models  modelConfig
	compile compileConfig
	ready   string // see readyURL
	task    TaskConfig
}

// announced reports whether a task event describes the start.
func (s start) announced() bool { return s.ready != "" || len(s.models.refs) > 0 || s.compile.on }

// prepare derives everything from the task's configuration and its DeviceEnv, because Nomad preserves
// nothing else of a reservation across restarts.
func (s settings) prepare(cfg *drivers.TaskConfig, runtimes []string) (start, error) {
	task, spec, timeout, err := s.decode(cfg)
	if err != nil {
		return start{}, fmt.Errorf("config of task %q: %w", cfg.Name, err)
	}
	grant, err := grantOf(cfg)
	if err != nil {
		return start{}, err
	}
	choice, err := variant.Choose(spec, grant)
	if err != nil {
		return start{}, err
	}
	task = task.apply(choice)
	if err := s.checkNetwork(cfg, task); err != nil {
		return start{}, err
	}
	if task, err = s.confine(cfg, task, grant); err != nil {
		return start{}, fmt.Errorf("config of task %q: %w", cfg.Name, err)
	}
	out := start{config: cfg.Copy()}
	a := s.withoutGPU(cfg)
	switch {
	case grant == nil && task.RequireAttachment:
		return start{},
			fmt.Errorf("config of task %q: require_attachment = true, but the task was granted no GPU of this "+
				"driver's device plugins: request one with a device block, or remove require_attachment", cfg.Name)
	case grant != nil && grant.Sharing == gpu.SharingMPS:
		task = task.withoutShm(cfg.TaskDir().Dir)
	}
	if grant != nil {
		if a, err = s.attachTo(*grant, task, runtimes); err != nil {
			return start{}, err
		}
		a.env = withDefaults(noGPU(), a.env)
		out.check = &check{Grant: grant.Env(), Require: task.RequireAttachment, Timeout: timeout}
	}
	out.message, out.notes = describe(choice, grant, a, cfg.DeviceEnv)
	task.GroupAdd = append(slices.Clone(task.GroupAdd), a.groups...)
	attach(out.config, task, choice, a)
	addMounts(out.config, task, logMounts(out.config, task))
	if err := out.complete(task, cfg); err != nil {
		return start{}, fmt.Errorf("config of task %q: %w", cfg.Name, err)
	}
	return out, nil
}

// decode reads the configuration of a task.
func (s settings) decode(cfg *drivers.TaskConfig) (task TaskConfig, spec variant.Spec, timeout time.Duration,
	err error) {
	if err = cfg.DecodeDriverConfig(&task); err != nil {
		return task, spec, 0, err
	}
	if spec, err = task.spec(); err != nil {
		return task, spec, 0, err
	}
	timeout, err = task.attachmentTimeout(s.timeout)
	return task, spec, timeout, err
}

// complete adds models, ready check and compile cache, and the configuration for Nomad's docker driver.
func (s *start) complete(task TaskConfig, cfg *drivers.TaskConfig) (err error) {
	s.task = task
	if s.models, err = task.modelConfig(s.config); err != nil {
		return err
	}
	if s.ready, err = task.readyURL(cfg); err != nil {
		return err
	}
	if s.compile, err = task.compileConfig(cfg); err != nil {
		return err
	}
	return s.config.EncodeConcreteDriverConfig(task.TaskConfig)
}

// grantOf returns the task's grant, nil without one.
func grantOf(cfg *drivers.TaskConfig) (*gpu.Grant, error) {
	grant, ok, err := gpu.ParseGrant(cfg.DeviceEnv)
	if err != nil || !ok {
		return nil, err
	}
	return &grant, nil
}

// withoutGPU returns the attachment of a task without a grant. It prevents a vendor's container runtime
// that is the engine's default from adding every GPU: a job may request all, and images for CUDA do. It
// keeps what another device plugin has granted.
func (s settings) withoutGPU(cfg *drivers.TaskConfig) attachment {
	if s.limits.ungranted {
		return attachment{}
	}
	a := attachment{env: noGPU()}
	if ofOtherPlugin(cfg, nil) {
		a.env[visibleDevices] = cfg.DeviceEnv[visibleDevices]
	}
	return a
}

// attach adds the attachment to the docker driver's copy of the task's configuration. It replaces
// nodes and mounts that a device plugin returned for Nomad's own drivers. Files that the job mounts
// at the same places take precedence over the attachment's read-only files.
func attach(cfg *drivers.TaskConfig, task TaskConfig, choice variant.Choice, a attachment) {
	cfg.Env = environment(cfg.Env, choice.Env, cfg.DeviceEnv, a)
	maps.Copy(cfg.Env, ownPlaces)
	cfg.Devices = slices.DeleteFunc(cfg.Devices, func(d *drivers.DeviceConfig) bool {
		return slices.ContainsFunc(a.nodes, func(n *drivers.DeviceConfig) bool { return n.TaskPath == d.TaskPath })
	})
	cfg.Devices = append(cfg.Devices, a.nodes...)
	addMounts(cfg, task, a.mounts)
	cfg.DeviceEnv = maps.Clone(cfg.DeviceEnv)
	switch a.how {
	case "":
	case AttachRuntime:
		cfg.DeviceEnv[visibleDevices] = a.env[visibleDevices]
	default:
		delete(cfg.DeviceEnv, visibleDevices)
	}
}

func addMounts(cfg *drivers.TaskConfig, task TaskConfig, mounts []*drivers.MountConfig) {
	ofJob := task.targets()
	for _, m := range mounts {
		if m.Readonly && ofJob[filepath.Clean(m.TaskPath)] {
			continue
		}
		cfg.Mounts = slices.DeleteFunc(cfg.Mounts, func(o *drivers.MountConfig) bool {
			return o.TaskPath == m.TaskPath
		})
		cfg.Mounts = append(cfg.Mounts, m)
	}
}

func withDefaults(defaults, over map[string]string) map[string]string {
	maps.Copy(defaults, over)
	return defaults
}

// targets returns the paths in the container at which the job mounts something.
func (c TaskConfig) targets() map[string]bool {
	out := map[string]bool{}
	for _, m := range slices.Concat(c.Mounts, c.MountsList) {
		out[filepath.Clean(m.Target)] = true
	}
	for _, v := range c.Volumes {
		if f := strings.Split(v, ":"); len(f) > 1 {
			out[filepath.Clean(f[1])] = true
		}
	}
	return out
}

// describe returns the message and annotations of the start event: which image, on which part of which
// GPU, with which enforcement.
func describe(choice variant.Choice, grant *gpu.Grant, a attachment, env map[string]string) (string,
	map[string]string) {
	notes := map[string]string{"image": choice.Image}
	image := "image " + choice.Image
	if choice.Variant != "" {
		notes["variant"] = choice.Variant
		image += fmt.Sprintf(" (variant %q)", choice.Variant)
	}
	if grant == nil {
		return image + ", no GPU granted", notes
	}
	ids := make([]string, len(grant.GPUs))
	for i, id := range grant.GPUs {
		ids[i] = string(id)
	}
	notes["gpu"], notes["group"] = strings.Join(ids, ","), grant.Group
	notes["instances"] = strings.Join(grant.Instances, ",")
	notes["enforcement"], notes["attached_by"] = string(grant.Enforcement), a.how
	part := variant.Part(*grant)
	if grant.Total > 1 {
		percent := ""
		if v, err := vendorOf(*grant); err == nil {
			percent = env[v.percent]
		}
		if percent == "" {
			percent = strconv.Itoa(100 * grant.Slices / grant.Total)
		}
		notes["slices"], notes["percentage"] = fmt.Sprintf("%d of %d", grant.Slices, grant.Total), percent
		part += fmt.Sprintf(" (%s%% of its compute units)", percent)
	}
	notes["memory_mib"] = strconv.FormatUint(uint64(grant.Memory), 10)
	memory := grant.Memory.String()
	if one := grant.ProcessMemory(); one != grant.Memory {
		notes["process_memory_mib"] = strconv.FormatUint(uint64(one), 10)
		memory += fmt.Sprintf(" (one process can use %s)", one)
	}
	return fmt.Sprintf("%s on %s %s: %s, %s, enforcement %s (%s), attached by %s",
		image, grant.Group, strings.Join(ids, " "), part, memory, grant.Enforcement, grant.Enforcement.Level(),
		a.how), notes
}
