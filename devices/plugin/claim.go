package plugin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"aliquot.example/internal/gpu"
)

// claim is this process's right to offer the GPUs of a vendor by a run directory: a
// lock, held until the process ends. Two plugins would offer each slice twice.
type claim struct {
	runDir, path string
	vendor       gpu.Vendor

	mu   sync.Mutex
	lock *os.File
}

func newClaim(runDir string, vendor gpu.Vendor) *claim {
	return &claim{runDir: runDir, path: filepath.Join(runDir, string(vendor), "lock"), vendor: vendor}
}

// missing says why this process has no right to offer anything now, "" when it has.
func (c *claim) missing() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lock != nil {
		return ""
	}
	if err := os.MkdirAll(filepath.Dir(c.path), 0o755); err != nil {
		return c.unusable(err)
	}
	f, err := os.OpenFile(c.path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return c.unusable(err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		c.lock = f
		return ""
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Sprintf("another device plugin for %s offers these GPUs with run_dir %s; "+
			"give each Nomad agent GPUs and a run_dir of its own", c.vendor, c.runDir)
	}
	return c.unusable(err)
}

func (c *claim) unusable(err error) string {
	return fmt.Sprintf("run_dir %s cannot be used: %v; the plugin keeps its lock and state there: "+
		"make it a directory that root can write, or set run_dir to one", c.runDir, err)
}
