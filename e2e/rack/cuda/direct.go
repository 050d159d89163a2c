package cuda

import (
	"os"
	"path/filepath"
	"sync"

	"aliquot.example/e2e/rack"
	"aliquot.example/e2e/rack/wire"
)

// direct opens the devices without MPS. It reads what a driver would report from the rack file,
// which ALIQUOT_RACK names or which is inside the stand-in for libcuda.so.1 that rack.Root creates
// with the driver's libraries.
func direct(o Options) (*Context, error) {
	path, file, err := describe(o)
	if err != nil {
		return nil, err
	}
	l := &directLink{rack: path}
	c := &Context{link: l}
	there := file.Devices(func(d wire.Device) bool { return reachable(o.Root, d) })
	for _, d := range file.Select(there, trimmed(o.Env, "CUDA_VISIBLE_DEVICES")) {
		if err := c.open(o.Root, d); err != nil {
			return nil, err
		}
		if wire.Refuses(path, physical(d)) {
			c.closeNodes()
			return nil, &Error{wire.DeviceUnavailable, "CUDA-capable device(s) is/are busy or unavailable"}
		}
		c.Devices = append(c.Devices, seen(d))
		l.devices = append(l.devices, d)
		l.held = append(l.held, wire.Holder{GI: d.GI, CI: d.CI})
	}
	if len(c.Devices) == 0 {
		return nil, &Error{wire.NoDevice, "no CUDA-capable device is detected"}
	}
	return c, l.declare()
}

// Libraries lists the folders of the driver's libraries below a root.
var Libraries = []string{"usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib", "usr/local/nvidia/lib64", "usr/local/lib"}

func describe(o Options) (path string, f *rack.File, err error) {
	if path, ok := o.Env("ALIQUOT_RACK"); ok && path != "" {
		f, err := rack.Load(path)
		return path, f, err
	}
	dirs := []string{}
	if extra, ok := o.Env("LD_LIBRARY_PATH"); ok {
		dirs = filepath.SplitList(extra)
	}
	for _, d := range Libraries {
		dirs = append(dirs, filepath.Join(o.Root, d))
	}
	for _, dir := range dirs {
		if f, err := rack.Load(filepath.Join(dir, rack.Libcuda)); err == nil {
			return "", f, nil
		}
	}
	return "", nil, &Error{wire.NoDevice, rack.Libcuda + ": cannot open shared object file: No such file or directory"}
}

// directLink is the link of a process without MPS. It declares itself to NVML if it can reach the rack,
// which a container cannot.
type directLink struct {
	rack    string
	mu      sync.Mutex
	devices []wire.Device
	held    []wire.Holder
	lost    bool
}

func (l *directLink) declare() error {
	if l.rack == "" {
		return nil
	}
	for i, d := range l.devices {
		if err := l.held[i].Declare(l.rack, physical(d), os.Getpid()); err != nil {
			return err
		}
	}
	return nil
}

func physical(d wire.Device) string {
	if d.Parent != "" {
		return d.Parent
	}
	return d.UUID
}

func (l *directLink) do(r wire.Request) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.Op == "fault" {
		l.lost = true
	}
	if l.lost {
		return &Error{wire.LaunchFailed, "the context is lost"}
	}
	if r.Device < 0 || r.Device >= len(l.devices) {
		return &Error{wire.InvalidDevice, "invalid device ordinal"}
	}
	h := &l.held[r.Device]
	switch r.Op {
	case "alloc":
		if h.MiB+r.MiB > l.devices[r.Device].Memory {
			return &Error{wire.OutOfMemory, "out of memory"}
		}
		h.MiB += r.MiB
	case "free":
		h.MiB = max(0, h.MiB-r.MiB)
	case "load":
		h.SM, h.Memory = r.SM, r.Memory
	}
	return l.declare()
}

func (l *directLink) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range l.devices {
		if l.rack != "" {
			wire.Withdraw(l.rack, physical(d), os.Getpid())
		}
	}
	return nil
}
