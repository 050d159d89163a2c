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

// Numbers gives every physical GPU one number, over restarts of the plugin and of the
// host. Drivers renumber GPUs when one falls off the bus or is missing after a reboot,
// but the number is in the name of the device group by which Nomad accounts for what
// allocations hold, those included that go on after a reboot: under another name their
// slices would be granted twice.
type Numbers struct {
	file string
	log  hclog.Logger

	mu     sync.Mutex
	loaded bool
	// booted is set until the first reading after a boot: GPUs are exchanged while a
	// host is down.
	booted bool
	of     map[gpu.ID]int
}

// NewNumbers touches no file before Of.
func NewNumbers(runDir string, vendor gpu.Vendor, log hclog.Logger) *Numbers {
	return &Numbers{file: filepath.Join(lasting(runDir), string(vendor), "numbers.json"), log: log,
		of: map[gpu.ID]int{}}
}

// Counted is a GPU with the number that its driver gives it now.
type Counted struct {
	ID     gpu.ID
	Number int
}

// Of returns the numbers of the GPUs that there are: each has the one that it had
// first, and else the driver's or the lowest that no GPU has. GPUs that are missing
// keep theirs, but for those that a boot has brought new ones in place of.
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
			n.log.Warn("the GPUs' numbers cannot be saved; after a restart groups may be renamed under running "+
				"allocations when a GPU is missing", "file", n.file, "error", err)
		}
	}
	return out
}

// exchanged forgets, at the first reading after a boot and where that has new GPUs,
// those that are missing. It returns whether there was a boot.
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
		n.log.Warn("the GPUs' numbers cannot be read and are assigned again", "file", n.file, "error", err)
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
