package nvidia

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"github.com/ebitengine/purego"

	"aliquot.example/devices/nvidia/nvml"
	"aliquot.example/internal/gpu"
	kernel "aliquot.example/internal/host/nvidia"
)

// setLimits and getLimits are nvmlSetMemoryLimits_v1_t and nvmlGetMemoryLimits_v1_t of
// driver 615 (docs.nvidia.com/deploy/nvml-api), which go-nvml does not have yet: the
// control group's folder, and sizes in bytes.
type setLimits struct {
	group *byte
	_     uint64 // soft
	hard  uint64
}

type getLimits struct {
	group *byte
	_     uint64 // soft
	hard  uint64
	_     uint64 // used
}

// limiter has the calls of NVML that limit the memory of a control group.
type limiter struct {
	handle   func(uuid *byte, device *uintptr) nvml.Return
	set      func(device uintptr, limits *setLimits) nvml.Return
	get      func(device uintptr, limits *getLimits) nvml.Return
	shutdown func() nvml.Return
}

// errNoLimits says that this driver has no memory limits for this GPU.
var errNoLimits = errors.New("NVIDIA's driver has no memory limits by control group here")

// newLimiter loads the library and starts NVML.
func newLimiter(file string) (*limiter, error) {
	lib, err := purego.Dlopen(file, purego.RTLD_LAZY|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("NVIDIA's library cannot be loaded: %w", err)
	}
	l := &limiter{}
	var start func() nvml.Return
	for name, call := range map[string]any{
		"nvmlInit_v2": &start, "nvmlShutdown": &l.shutdown, "nvmlDeviceGetHandleByUUID": &l.handle,
		"nvmlDeviceSetMemoryLimits_v1": &l.set, "nvmlDeviceGetMemoryLimits_v1": &l.get,
	} {
		address, err := purego.Dlsym(lib, name)
		if err != nil || address == 0 {
			return nil, fmt.Errorf("%w: %s lacks %s", errNoLimits, file, name)
		}
		purego.RegisterFunc(call, address)
	}
	if r := start(); r != nvml.Success {
		return nil, fmt.Errorf("NVML cannot start: %s", describe(r))
	}
	return l, nil
}

// page is the size to which the driver rounds memory.
const page = 2 << 20

// hold limits the GPU memory of a control group, and returns the limit that the driver then reports.
// It sets no guarantee (soft limit 0): the driver would also count a guarantee in every parent group,
// and would not release it when the group is removed.
func (l *limiter) hold(id gpu.ID, group string, limit uint64) (uint64, error) {
	var device uintptr
	name := text(string(id))
	defer runtime.KeepAlive(name)
	if r := l.handle(name, &device); r != nvml.Success {
		return 0, fmt.Errorf("NVML has no GPU %s: %s", id, describe(r))
	}
	folder := text(group)
	defer runtime.KeepAlive(folder)
	switch r := l.set(device, &setLimits{group: folder, hard: limit / page * page}); r {
	case nvml.Success:
	case nvml.NotSupported, nvml.FunctionNotFound:
		return 0, fmt.Errorf("%w: %s", errNoLimits, describe(r))
	default:
		return 0, fmt.Errorf("the memory limit of %s cannot be set: %s", group, describe(r))
	}
	got := getLimits{group: folder}
	if r := l.get(device, &got); r != nvml.Success {
		return 0, fmt.Errorf("the memory limit of %s cannot be read back: %s", group, describe(r))
	}
	if got.hard == 0 || got.hard > limit {
		return 0, fmt.Errorf("the memory limit of %s is %d, although %d was set", group, got.hard, limit)
	}
	return got.hard, nil
}

// text returns a string that ends with a zero byte, for C.
func text(s string) *byte { return unsafe.StringData(s + "\x00") }

// AnswerDriver sets a memory limit and ends the process if the task driver has started it, and returns
// otherwise. The driver does not load the vendor's library itself, because a library that hangs or
// crashes must not affect the driver. The arguments are kernel.HoldMemory, the host's root directory,
// the GPU, the directory of the control group and the limit in bytes. AnswerDriver prints the limit
// that is in force.
func AnswerDriver(args []string) {
	if len(args) != 6 || args[1] != kernel.HoldMemory {
		return
	}
	limit, err := strconv.ParseUint(args[5], 10, 64)
	if err == nil {
		limit, err = holdMemory(args[2], gpu.ID(args[3]), args[4], limit)
	}
	switch {
	case errors.Is(err, errNoLimits):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(kernel.NoLimits)
	case err != nil:
		fmt.Fprintln(os.Stderr, strings.Join(strings.Fields(err.Error()), " "))
		os.Exit(1)
	}
	fmt.Println(limit)
	os.Exit(0)
}

func holdMemory(root string, id gpu.ID, group string, limit uint64) (uint64, error) {
	l, err := newLimiter((&library{root: root}).file())
	if err != nil {
		return 0, err
	}
	defer l.shutdown()
	return l.hold(id, group, limit)
}
