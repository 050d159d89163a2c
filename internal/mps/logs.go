package mps

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// maxLog is the maximum size of one of the daemon's logs on its file system, in bytes.
	// control.log gets several lines for every request and client, tens of megabytes a day, and is
	// in memory below /run.
	maxLog = 4 << 20
	// keptLog is how much of the end of a log that was too large is kept, in bytes.
	keptLog = 256 << 10
)

// BoundLogs truncates logs of the daemon that have become too large. It first copies their end to a
// file ".old".
func (c Control) BoundLogs() error {
	entries, err := os.ReadDir(c.Log)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".old") || strings.HasSuffix(e.Name(), ".new") {
			continue
		}
		if err := boundLog(filepath.Join(c.Log, e.Name())); err != nil {
			return fmt.Errorf("log %s cannot be truncated: %w", e.Name(), err)
		}
	}
	return nil
}

// boundLog truncates one log in place, because its writer keeps it open.
func boundLog(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return err
	}
	// Blocks and not the size: a writer that does not append continues at its old offset.
	const block = 512
	if sys, ok := st.Sys().(*syscall.Stat_t); !ok || sys.Blocks*block <= maxLog {
		return nil
	}
	end := make([]byte, keptLog)
	n, err := f.ReadAt(end, max(0, st.Size()-keptLog))
	if err != nil && err != io.EOF {
		return err
	}
	old := path + ".old"
	if err := os.WriteFile(old+".new", end[:n], 0o600); err != nil {
		return err
	}
	if err := os.Rename(old+".new", old); err != nil {
		return err
	}
	return f.Truncate(0)
}
