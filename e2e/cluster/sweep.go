package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// reapVariable makes a copy of the running program the reaper of a cluster: a process that outlives
// the harness, however that ends, and removes what is left of the cluster.
const reapVariable = "ALIQUOT_REAP"

func init() {
	dir := os.Getenv(reapVariable)
	if dir == "" {
		return
	}
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	// The harness holds the other end of this pipe, so the read ends when the harness does.
	_, _ = bufio.NewReader(os.Stdin).ReadString(0)
	if err := sweep(dir); err != nil {
		fmt.Fprintln(os.Stderr, "sweeping up after", dir+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// reaper is the process that sweeps after the harness has ended.
type reaper struct {
	cmd   *exec.Cmd
	alive *os.File // closing it starts the sweep
}

func startReaper(dir string) (*reaper, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer read.Close()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), reapVariable+"="+dir)
	cmd.Stdin, cmd.Stderr = read, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		write.Close()
		return nil, err
	}
	return &reaper{cmd: cmd, alive: write}, nil
}

// sweep makes the reaper sweep, and returns when everything is removed.
func (r *reaper) sweep() error {
	r.alive.Close()
	return r.cmd.Wait()
}

// sweep removes everything that a cluster left: processes, containers, images, mounts, its bridge,
// its cgroups and its directory. It is safe to repeat.
func sweep(dir string) error {
	failed := errors.Join(endProcesses(dir), removeContainers(label(dir)))
	mounted := unmount(dir)
	failed = errors.Join(failed, mounted, removeBridge(bridgeName(dir)), removeControlGroups(dir))
	if mounted != nil {
		return failed // the files below belong to others
	}
	return errors.Join(failed, os.RemoveAll(dir))
}

// endProcesses kills processes with the cluster's mark until none is left: a process may start
// another one during the search.
func endProcesses(dir string) error {
	return AwaitWithin(context.Background(), 20*time.Second, "the end of all processes", func() string {
		pids := slices.DeleteFunc(marked(dir), func(pid int) bool { return !alive(pid) })
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if len(pids) > 0 {
			return fmt.Sprintf("%v run", pids)
		}
		return ""
	})
}

// unmount detaches every mount at or below dir, innermost first.
func unmount(dir string) error {
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	var points []string
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) > 1 && (fields[1] == dir || strings.HasPrefix(fields[1], dir+"/")) {
			points = append(points, fields[1])
		}
	}
	slices.Sort(points)
	slices.Reverse(points)
	var failed error
	for _, point := range points {
		if err := syscall.Unmount(point, syscall.MNT_DETACH); err != nil {
			failed = errors.Join(failed, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	return failed
}

// removeControlGroups removes the cgroups that Nomad created for the cluster.
func removeControlGroups(dir string) error {
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + cgroupName(dir))
	unified, _ := filepath.Glob("/sys/fs/cgroup/" + cgroupName(dir))
	for _, top := range slices.Concat(groups, unified) {
		var all []string
		_ = filepath.WalkDir(top, func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				all = append(all, path)
			}
			return nil
		})
		slices.Reverse(all)
		for _, path := range all {
			_ = syscall.Rmdir(path) // an empty cgroup does no harm
		}
	}
	return nil
}

// sweepStale sweeps up after clusters whose harness and reaper were both killed.
func sweepStale() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*", lockFile))
	for _, path := range dirs {
		lock, err := os.Open(path)
		if err != nil {
			continue
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			_ = sweep(filepath.Dir(path))
		}
		lock.Close()
	}
}
