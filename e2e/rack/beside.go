package rack

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// StartBeside starts a command in the mount namespace of a process, such as that of
// an MPS daemon: its /dev/shm is what a container would be given. It needs root.
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
		// Never unlocked: the thread ends with the goroutine. The main thread stands for
		// the process and stays as it is.
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

// Unmount detaches what the device plugin mounted below its run directory, which
// outlives it on purpose.
func Unmount(runDir string) {
	mounted, _ := filepath.Glob(filepath.Join(runDir, "mps", "*", "shm"))
	for _, path := range mounted {
		if strings.HasPrefix(path, runDir) {
			_ = unix.Unmount(path, unix.MNT_DETACH)
		}
	}
}
