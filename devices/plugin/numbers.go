package plugin

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/hashicorp/go-hclog"

	"aliquot.example/internal/gpu"
	machine "aliquot.example/internal/host"
)

// Numbers gives every physical GPU a number that it keeps when the plugin or the host restarts.
// Drivers renumber GPUs when one falls off the bus or is missing after a reboot. But the number is
// part of the name of the device group under which Nomad records what allocations hold, including
// allocations that continue after a reboot. Under another name, Nomad would grant their slices twice.
type Numbers struct {
	file string
	log  hclog.Logger

	mu     sync.Mutex
	loaded bool
	// booted is set until the first reading after a boot: operators replace GPUs while a
	// host is down.
	booted bool
	of     map[gpu.ID]int
}

// NewNumbers returns the numbers that are saved for a run directory. It reads no file before Of.
func NewNumbers(runDir string, vendor gpu.Vendor, log hclog.Logger) *Numbers {
	return &Numbers{file: filepath.Join(lasting(runDir), string(vendor), "numbers.json"), log: log,
		of: map[gpu.ID]int{}}
}

// Counted is a GPU with its driver's current number.
type Counted struct {
	ID     gpu.ID
	Number int
}

// Of returns the numbers of the present GPUs. A known GPU keeps its first number. A new GPU gets its
// driver's number, or the lowest free one if that is taken. Missing GPUs keep their numbers, except
// if new GPUs are present at the first reading after a boot: then they count as replaced.
func (n *Numbers) Of(found []Counted) []int {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.load()
	changed := n.exchanged(found)
	taken := map[int]bool{}
	for _, number := range n.of {
		taken[number] = true
	}
	out := make([]int, len(found))
	for i, f := range found {
		number, known := n.of[f.ID]
		if !known {
			number = f.Number
			for next := 0; taken[number]; next++ {
				number = next
			}
			n.of[f.ID], taken[number], changed = number, true, true
		}
		out[i] = number
	}
	if changed {
		if err := n.save(); err != nil {
			n.log.Warn("cannot save the GPUs' numbers; if a GPU is missing after a restart, device groups may change "+
				"their names while allocations use them", "file", n.file, "error", err)
		}
	}
	return out
}

// exchanged forgets the missing GPUs if this is the first reading after a boot and there are new
// GPUs. It reports whether this is the first reading after a boot.
func (n *Numbers) exchanged(found []Counted) bool {
	if !n.booted || len(found) == 0 {
		return false
	}
	n.booted = false
	if slices.ContainsFunc(found, func(f Counted) bool { _, known := n.of[f.ID]; return !known }) {
		for id := range n.of {
			if !slices.ContainsFunc(found, func(f Counted) bool { return f.ID == id }) {
				delete(n.of, id)
			}
		}
	}
	return true
}

// numbering is the file's content.
type numbering struct {
	// Boot is the kernel's boot ID.
	Boot    string
	Numbers map[gpu.ID]int
}

func (n *Numbers) load() {
	if n.loaded {
		return
	}
	n.loaded = true
	text, err := os.ReadFile(n.file)
	if err != nil {
		return
	}
	var kept numbering
	if err := json.Unmarshal(text, &kept); err != nil {
		n.log.Warn("cannot read the saved numbers of the GPUs, assigning new ones", "file", n.file, "error", err)
		return
	}
	if kept.Numbers != nil {
		n.of, n.booted = kept.Numbers, kept.Boot != machine.Running.BootID()
	}
}

func (n *Numbers) save() error {
	text, err := json.Marshal(numbering{Boot: machine.Running.BootID(), Numbers: n.of})
	if err != nil {
		return err
	}
	return WriteFile(n.file, text)
}
