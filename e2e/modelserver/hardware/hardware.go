// Package hardware tells the stand-in model server about its GPU: the grant in its environment,
// what it finds when it opens the GPU, and whether the two agree.
package hardware

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"aliquot.example/e2e/rack/cuda"
	"aliquot.example/internal/gpu"
)

// cpuSpeed is the speed of a server without a GPU, relative to a whole H100.
const cpuSpeed = 0.02

// Hardware is the GPU of this process, which stays open as long as the process runs.
type Hardware struct {
	// Variant is the kind of the image: nvidia, amd, intel or cpu.
	Variant string
	Grant   gpu.Grant
	granted bool
	device  *device
	// Compiled is set if the server had to compile.
	Compiled bool
}

// Info is the answer to GET /v1/info: all that the process sees of its environment.
type Info struct {
	Variant         string        `json:"variant"`
	Model           string        `json:"model"`
	Slots           int           `json:"slots"`
	TokensPerSecond float64       `json:"tokens_per_second_per_slot"`
	Problem         string        `json:"problem,omitempty"`
	Grant           *gpu.Grant    `json:"grant,omitempty"`
	CUDA            *cuda.Context `json:"cuda,omitempty"`
	// Compiled is set if nothing was cached from an earlier start.
	Compiled    bool              `json:"compiled"`
	Environment map[string]string `json:"environment"`
	DeviceNodes []string          `json:"device_nodes"`
	Mounts      []string          `json:"mounts"`
	PID         int               `json:"pid"`
}

// Open reads the grant and opens the granted GPU as a CUDA program would. It fails where such a
// program would exit with an error.
func Open() (*Hardware, error) {
	h := &Hardware{Variant: os.Getenv("MODELSERVER_VARIANT")}
	if h.Variant == "" {
		h.Variant = "cpu"
	}
	var err error
	if h.Grant, h.granted, err = gpu.ParseGrant(environment("")); err != nil {
		return nil, err
	}
	if !h.granted || h.Grant.Vendor != gpu.NVIDIA || h.Variant != string(gpu.NVIDIA) {
		return h, nil
	}
	h.device, err = openCUDA()
	return h, err
}

// Close releases the GPU.
func (h *Hardware) Close() error {
	if h.device == nil {
		return nil
	}
	return h.device.Close()
}

// Lost returns a channel that yields the error by which the process lost its GPU.
func (h *Hardware) Lost() <-chan error {
	if h.device == nil {
		return nil
	}
	return h.device.lost
}

// Use describes how a server uses its GPU.
type Use struct {
	// MiB is the memory that it takes on each GPU.
	MiB int
	// Busy returns how much of the grant it keeps busy, in percent.
	Busy func() int
	// Every is the interval between calls to the GPU. It limits how soon the server notices that
	// the GPU or its MPS server is gone.
	Every time.Duration
}

// Hold uses the GPU until Close.
func (h *Hardware) Hold(use Use) error {
	if h.device == nil {
		return nil
	}
	return h.device.hold(use)
}

// Keep reduces the GPU memory of a server to 1/parts of what it took; parts 1 takes all of it
// again. Calls must not be concurrent.
func (h *Hardware) Keep(parts int) error {
	if h == nil || h.device == nil {
		return nil
	}
	return h.device.resize(h.device.full / parts)
}

// Problem returns how the hardware differs from the grant, or "".
func (h *Hardware) Problem() string {
	switch {
	case !h.granted && h.Variant == "cpu":
		return ""
	case !h.granted:
		return fmt.Sprintf("the image is for %s and the task was granted no GPU", h.Variant)
	case h.Variant != string(h.Grant.Vendor):
		return fmt.Sprintf("the image is for %s and the task was granted a GPU of %s", h.Variant, h.Grant.Vendor)
	case h.device != nil:
		return h.device.differs(h.Grant)
	default:
		return ""
	}
}

// Speed returns the speed of this hardware relative to a whole H100: the weight of the grant,
// reduced if the GPU shows fewer units than were granted.
func (h *Hardware) Speed() float64 {
	if !h.granted || h.Grant.Weight <= 0 {
		return cpuSpeed
	}
	speed := h.Grant.Weight
	if h.device != nil && h.Grant.Units > 0 {
		speed *= min(1, float64(h.device.units())/float64(h.Grant.Units))
	}
	return speed
}

// Fingerprint returns variant, class and slices, for OpenAI's system_fingerprint.
func (h *Hardware) Fingerprint() string {
	if !h.granted {
		return h.Variant
	}
	return fmt.Sprintf("%s/%s/%dof%d", h.Variant, h.Grant.Class, h.Grant.Slices, h.Grant.Total)
}

// Info returns what this process sees.
func (h *Hardware) Info() Info {
	info := Info{
		Variant:  h.Variant,
		Problem:  h.Problem(),
		Compiled: h.Compiled,
		Environment: environment("ALIQUOT_", "CUDA_", "NVIDIA_", "ROCR_", "HSA_", "ROC_", "HIP_", "ZE_",
			"NOMAD_", "HF_"),
		DeviceNodes: deviceNodes(),
		Mounts:      mounts(),
		PID:         os.Getpid(),
	}
	if h.granted {
		info.Grant = &h.Grant
	}
	if h.device != nil {
		info.CUDA = h.device.Context
	}
	return info
}

// environment returns the variables whose names begin with one of the prefixes.
func environment(prefixes ...string) map[string]string {
	found := map[string]string{}
	for _, entry := range os.Environ() {
		key, value, _ := strings.Cut(entry, "=")
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(key, p) }) {
			found[key] = value
		}
	}
	return found
}

// deviceNodes lists the GPU device nodes in /dev.
func deviceNodes() []string {
	found := map[string]bool{}
	for _, pattern := range []string{"/dev/nvidia*", "/dev/nvidia-caps/*", "/dev/kfd", "/dev/dri/*"} {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			if stat, err := os.Stat(path); err == nil && !stat.IsDir() {
				found[path] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// mounts lists the mount points of this process's mount namespace.
func mounts() []string {
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil
	}
	var points []string
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) > 1 {
			points = append(points, fields[1])
		}
	}
	slices.Sort(points)
	return slices.Compact(points)
}
