package rack

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

//go:embed racks/*.rack
var shipped embed.FS

// Shipped lists the racks of racks/, without ".rack".
func Shipped() []string {
	entries, _ := shipped.ReadDir("racks")
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".rack"))
	}
	return names
}

// Rack is a rack file that a test edits while programs use it.
type Rack struct {
	Path string
	mu   sync.Mutex
}

// New writes the shipped rack of that name to dir/rack.
func New(dir, name string) (*Rack, error) {
	text, err := shipped.ReadFile("racks/" + name + ".rack")
	if err != nil {
		return nil, fmt.Errorf("no rack %q; there are %s", name, strings.Join(Shipped(), ", "))
	}
	f, err := Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("rack %s:%w", name, err)
	}
	return Create(dir, f)
}

// Create writes f to dir/rack and creates the folder of process states beside it.
func Create(dir string, f *File) (*Rack, error) {
	r := &Rack{Path: filepath.Join(dir, "rack")}
	if err := os.MkdirAll(r.Path+".d", 0o755); err != nil {
		return nil, err
	}
	// Servers and clients of any user write their state here.
	if err := os.Chmod(r.Path+".d", 0o1777); err != nil {
		return nil, err
	}
	return r, f.Write(r.Path)
}

// File reads the current state of the rack.
func (r *Rack) File() (*File, error) { return Load(r.Path) }

// Edit changes the rack atomically.
func (r *Rack) Edit(change func(*File) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	f, err := Load(r.Path)
	if err != nil {
		return err
	}
	if err := change(f); err != nil {
		return err
	}
	return f.Write(r.Path)
}

// EditGPU changes one GPU atomically.
func (r *Rack) EditGPU(uuid string, change func(*GPU)) error {
	return r.Edit(func(f *File) error {
		g := f.GPU(uuid)
		if g == nil {
			return fmt.Errorf("rack %s has no GPU %s", r.Path, uuid)
		}
		change(g)
		return nil
	})
}

// Set sets one value of a GPU. README.md lists the keys.
func (r *Rack) Set(uuid, key string, value any) error {
	return r.EditGPU(uuid, func(g *GPU) { g.Set(key, text(value)) })
}

func text(value any) string {
	if b, ok := value.(bool); ok {
		return map[bool]string{true: "yes", false: "no"}[b]
	}
	return fmt.Sprint(value)
}

// XID raises an XID event. If the GPU is in MIG mode and the error is confined to one instance,
// instance is "gi=<n> ci=<n>" of that instance.
func (r *Rack) XID(uuid string, xid int, instance ...string) error {
	return r.Event(uuid, strings.Join(append([]string{"xid", strconv.Itoa(xid)}, instance...), " "))
}

// Event raises an event: "xid 79", "dbe", "sbe", "clock", "pstate", "power", "mig".
func (r *Rack) Event(uuid, what string) error {
	return r.EditGPU(uuid, func(g *GPU) {
		last := 0
		for _, e := range g.All("event") {
			seq, _, _ := strings.Cut(e, " ")
			n, _ := strconv.Atoi(seq)
			last = max(last, n)
		}
		g.Add("event", fmt.Sprintf("%d %s", last+1, what))
	})
}

// Lose makes every call on the GPU return NVML_ERROR_GPU_IS_LOST.
func (r *Rack) Lose(uuid string) error { return r.Set(uuid, "lost", true) }

// Remove takes the GPU off the bus, so that NVML no longer counts it.
func (r *Rack) Remove(uuid string) error { return r.Set(uuid, "absent", true) }

// Restore undoes Lose and Remove.
func (r *Rack) Restore(uuid string) error {
	return r.EditGPU(uuid, func(g *GPU) {
		g.Drop("lost")
		g.Drop("absent")
	})
}

// Fail makes one NVML call on a GPU, or every call for "*", return a code; 0 undoes it.
func (r *Rack) Fail(uuid, call string, code int) error {
	return r.EditGPU(uuid, func(g *GPU) {
		kept := Section{}
		for _, f := range g.Section {
			if f.Key != "fail" || !strings.HasPrefix(f.Value, call+" ") {
				kept = append(kept, f)
			}
		}
		if code != 0 {
			kept.Add("fail", fmt.Sprintf("%s %d", call, code))
		}
		g.Section = kept
	})
}

// SetDriver sets one value of the driver: version, cuda, nvml, or loaded. With loaded false,
// nvmlInit returns NVML_ERROR_DRIVER_NOT_LOADED.
func (r *Rack) SetDriver(key string, value any) error {
	return r.Edit(func(f *File) error {
		f.Driver.Set(key, text(value))
		return nil
	})
}
