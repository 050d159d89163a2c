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

// shmPlace is where CUDA looks for shared memory, in the daemon and in its clients.
const shmPlace = "/dev/shm"

// makeShm mounts the file system that the daemon and its GPU's tasks share, unless it
// is there.
func (c Control) makeShm() error {
	if c.Shm == "" || c.hasShm() {
		return nil
	}
	if err := os.MkdirAll(c.Shm, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("aliquot-mps", c.Shm, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV,
		"mode=1777,size="+c.ShmSize); err != nil {
		return fmt.Errorf("no shared memory for the tasks of the GPU can be mounted at %s: %w", c.Shm, err)
	}
	return nil
}

// hasShm reports whether a file system of its own is mounted there.
func (c Control) hasShm() bool {
	var own, parent unix.Stat_t
	return c.Shm != "" && unix.Stat(c.Shm, &own) == nil && unix.Stat(filepath.Dir(c.Shm), &parent) == nil &&
		own.Dev != parent.Dev
}

// RemoveShm ends the shared memory of a daemon that has ended.
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

// SweepShm removes what tasks left in the shared memory, once no container has it
// any more. What the daemon and its servers use stays.
func (c Control) SweepShm(daemon int) error {
	if !c.hasShm() {
		return nil
	}
	// Listed before the containers: what one that starts now makes is not among them.
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

// hasMount reports whether a process has a file system mounted at another place than
// the host's, as containers have.
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

// inUse notes the names below shmPlace that a process has mapped or open.
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

// run runs a command that starts the daemon, in a mount namespace of its own where
// the daemon has its own shared memory.
func (c Control) run(cmd *exec.Cmd) error {
	if c.Shm == "" {
		return cmd.Run()
	}
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with this goroutine, and its namespace with it.
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			done <- c.runApart(cmd)
			return
		}
		// The main thread stays as it is, since it stands for the process.
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

// runApart gives the calling thread another mount namespace and runs the command
// there.
func (c Control) runApart(cmd *exec.Cmd) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("no mount namespace for the MPS daemon: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("the MPS daemon's mounts cannot be kept apart: %w", err)
	}
	if err := unix.Mount(c.Shm, shmPlace, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("the MPS daemon cannot be given %s at %s: %w", c.Shm, shmPlace, err)
	}
	// The daemon is root and writes files with known names where containers can plant
	// links. Kernels before 5.10 know no such mount.
	const nosymfollow = 0x100
	if unix.Mount(c.Pipe, c.Pipe, "", unix.MS_BIND, "") == nil {
		_ = unix.Mount("", c.Pipe, "", unix.MS_BIND|unix.MS_REMOUNT|nosymfollow, "")
	}
	return cmd.Run()
}
