package plugin

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/go-hclog"

	"aliquot/internal/gpu"
)

// Numbers gives every physical GPU one number until the host boots again, over
// restarts of the plugin too. Drivers count anew when a GPU falls off the bus, but
// the number is in the name of the device group by which Nomad accounts for what
// running allocations hold: under another name their slices would be granted twice.
type Numbers struct {
	file string
	log  hclog.Logger

	mu     sync.Mutex
	loaded bool
	of     map[gpu.ID]int
}

// NewNumbers touches no file before Of.
func NewNumbers(runDir string, vendor gpu.Vendor, log hclog.Logger) *Numbers {
	return &Numbers{file: filepath.Join(runDir, string(vendor), "numbers.json"), log: log, of: map[gpu.ID]int{}}
}

// Of returns the number that the GPU has had since it was first seen; then it gets
// wish, or the next number that no GPU has had.
func (n *Numbers) Of(id gpu.ID, wish int) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.load()
	if number, ok := n.of[id]; ok {
		return number
	}
	taken := map[int]bool{}
	for _, number := range n.of {
		taken[number] = true
	}
	for taken[wish] {
		wish++
	}
	n.of[id] = wish
	if err := n.save(); err != nil {
		n.log.Warn("the GPUs' numbers cannot be kept over a restart of the plugin; after one, groups may be renamed under running allocations when a GPU is missing", "file", n.file, "error", err)
	}
	return wish
}

// numbering is the file's content.
type numbering struct {
	// Boot is the kernel's boot ID. GPUs are exchanged while a host is down.
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
		n.log.Warn("the GPUs' numbers cannot be read and are given anew", "file", n.file, "error", err)
		return
	}
	if kept.Boot == BootID() && kept.Numbers != nil {
		n.of = kept.Numbers
	}
}

func (n *Numbers) save() error {
	text, err := json.Marshal(numbering{Boot: BootID(), Numbers: n.of})
	if err != nil {
		return err
	}
	return WriteFile(n.file, text)
}
