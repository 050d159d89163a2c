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

// claim is a lock in the run directory that the process holds until it ends. It gives this process
// alone the right to offer a vendor's GPUs: two plugins would offer each slice twice.
type claim struct {
	runDir, path string
	vendor       gpu.Vendor

	mu   sync.Mutex
	lock *os.File
}

func newClaim(runDir string, vendor gpu.Vendor) *claim {
	return &claim{runDir: runDir, path: filepath.Join(runDir, string(vendor), "lock"), vendor: vendor}
}

// missing tries to take the lock. It returns why this process may not offer GPUs now, or "" if it
// may.
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
		return fmt.Sprintf("another device plugin for %s already uses run_dir %s; "+
			"give each Nomad agent different GPUs and a different run_dir", c.vendor, c.runDir)
	}
	return c.unusable(err)
}

func (c *claim) unusable(err error) string {
	return fmt.Sprintf("run_dir %s cannot be used: %v; the plugin keeps its lock and state there: "+
		"set run_dir to a directory that root can write", c.runDir, err)
}
