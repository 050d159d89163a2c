package rack

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// StartBeside starts a command in the mount namespace of another process, such as an MPS daemon,
// whose /dev/shm is the one that a container would get. It needs root.
func StartBeside(cmd *exec.Cmd, pid int) error {
	ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(ns)
	done := make(chan error, 1)
	enter := func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
			return err
		}
		return cmd.Start()
	}
	go func() {
		// The thread is never unlocked, so it ends with the goroutine. The main thread represents
		// the process and must not change its namespace.
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			done <- enter()
			return
		}
		other := make(chan error)
		go func() {
			runtime.LockOSThread()
			other <- enter()
		}()
		done <- <-other
		runtime.UnlockOSThread()
	}()
	return <-done
}

// Unmount detaches what the device plugin mounted below its run directory. The mounts outlive the
// plugin on purpose.
func Unmount(runDir string) {
	mounted, _ := filepath.Glob(filepath.Join(runDir, "mps", "*", "shm"))
	for _, path := range mounted {
		if strings.HasPrefix(path, runDir) {
			_ = unix.Unmount(path, unix.MNT_DETACH)
		}
	}
}
