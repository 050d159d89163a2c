package mps

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"aliquot.example/internal/host"
)

// shmPlace is where CUDA uses shared memory, in the daemon and in its clients.
const shmPlace = "/dev/shm"

// makeShm mounts the file system that the daemon and its GPU's tasks share, unless it is already
// mounted.
func (c Control) makeShm() error {
	if c.Shm == "" || c.hasShm() {
		return nil
	}
	if err := os.MkdirAll(c.Shm, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("aliquot-mps", c.Shm, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV,
		"mode=1777,size="+c.ShmSize); err != nil {
		return fmt.Errorf("cannot mount shared memory for the tasks of the GPU at %s: %w", c.Shm, err)
	}
	return nil
}

// hasShm reports whether a file system is mounted at Shm.
func (c Control) hasShm() bool {
	var own, parent unix.Stat_t
	return c.Shm != "" && unix.Stat(c.Shm, &own) == nil && unix.Stat(filepath.Dir(c.Shm), &parent) == nil &&
		own.Dev != parent.Dev
}

// RemoveShm unmounts the shared memory of a daemon that has ended.
func (c Control) RemoveShm() error {
	if c.hasShm() {
		if err := unix.Unmount(c.Shm, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("shared memory %s cannot be unmounted: %w", c.Shm, err)
		}
	}
	if err := os.Remove(c.Shm); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// SweepShm removes files of ended tasks from the shared memory when no container mounts it any
// more. Files that the daemon and its servers use stay.
func (c Control) SweepShm(daemon int) error {
	if !c.hasShm() {
		return nil
	}
	// List the files before the containers, so that files of a container that starts now are not
	// included.
	entries, err := os.ReadDir(c.Shm)
	if err != nil || len(entries) == 0 {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(c.Shm, &st); err != nil {
		return err
	}
	own, err := os.Readlink(mountNamespace(daemon))
	if err != nil {
		return err
	}
	ours, theirs := namespaces(own)
	for _, pid := range theirs {
		if hasMount(pid, st.Dev, c.Shm) {
			return nil
		}
	}
	used := map[string]bool{}
	for _, pid := range ours {
		inUse(pid, used)
	}
	var failed error
	for _, e := range entries {
		if !used[e.Name()] {
			failed = errors.Join(failed, os.RemoveAll(filepath.Join(c.Shm, e.Name())))
		}
	}
	return failed
}

func mountNamespace(pid int) string { return filepath.Join(host.Running.Process(pid), "ns/mnt") }

// namespaces lists the processes in a mount namespace, and one process of each other.
func namespaces(own string) (members, others []int) {
	seen := map[string]bool{}
	for _, pid := range host.Running.Numbered("/proc") {
		switch ns, err := os.Readlink(mountNamespace(pid)); {
		case err != nil:
		case ns == own:
			members = append(members, pid)
		case !seen[ns]:
			seen[ns] = true
			others = append(others, pid)
		}
	}
	return members, others
}

// hasMount reports whether a process has a file system mounted at another path than the host, as
// containers have.
func hasMount(pid int, dev uint64, ofHost string) bool {
	text, _ := os.ReadFile(filepath.Join(host.Running.Process(pid), "mountinfo"))
	want := fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))
	for line := range bytes.Lines(text) {
		const device, point = 2, 4
		if f := bytes.Fields(line); len(f) > point && string(f[device]) == want && string(f[point]) != ofHost {
			return true
		}
	}
	return false
}

// inUse collects the names below shmPlace that a process has mapped or open.
func inUse(pid int, names map[string]bool) {
	note := func(path string) {
		if rest, ok := strings.CutPrefix(path, shmPlace+"/"); ok {
			name, _, _ := strings.Cut(rest, "/")
			names[name] = true
		}
	}
	if maps, err := os.Open(filepath.Join(host.Running.Process(pid), "maps")); err == nil {
		for lines := bufio.NewScanner(maps); lines.Scan(); {
			if _, path, ok := strings.Cut(lines.Text(), " "+shmPlace+"/"); ok {
				note(shmPlace + "/" + path)
			}
		}
		maps.Close()
	}
	files, _ := filepath.Glob(filepath.Join(host.Running.Process(pid), "fd/*"))
	for _, file := range files {
		if to, err := os.Readlink(file); err == nil {
			note(to)
		}
	}
}

// run runs a command that starts the daemon, in a separate mount namespace if the daemon has its
// own shared memory.
func (c Control) run(cmd *exec.Cmd) error {
	if c.Shm == "" {
		return cmd.Run()
	}
	done := make(chan error, 1)
	go func() {
		// The thread is never unlocked, so it ends with this goroutine, and its namespace with it.
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			done <- c.runApart(cmd)
			return
		}
		// The main thread represents the process and must not change.
		other := make(chan error)
		go func() {
			runtime.LockOSThread()
			other <- c.runApart(cmd)
		}()
		done <- <-other
		runtime.UnlockOSThread()
	}()
	return <-done
}

// runApart gives the calling thread a new mount namespace and runs the command there.
func (c Control) runApart(cmd *exec.Cmd) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("cannot create a mount namespace for the MPS daemon: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("cannot make the MPS daemon's mounts private: %w", err)
	}
	if err := unix.Mount(c.Shm, shmPlace, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cannot mount %s at %s for the MPS daemon: %w", c.Shm, shmPlace, err)
	}
	// The daemon is root and writes files with known names to a directory in which containers can
	// create links. Kernels before 5.10 do not support this mount option.
	const nosymfollow = 0x100
	if unix.Mount(c.Pipe, c.Pipe, "", unix.MS_BIND, "") == nil {
		_ = unix.Mount("", c.Pipe, "", unix.MS_BIND|unix.MS_REMOUNT|nosymfollow, "")
	}
	return cmd.Run()
}
