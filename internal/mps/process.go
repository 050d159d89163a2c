package mps

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"aliquot.example/internal/host"
)

// identity identifies a process, as opposed to a later one with the same PID.
type identity struct {
	PID int
	// Start is when the process started, in clock ticks since the boot.
	Start uint64
	// Boot is the kernel's boot ID.
	Boot string
}

// Process returns the PID of the control daemon with this pipe directory, whether it answers or
// not, or 0 if none runs. It does not read the daemon's PID file, because every container of the
// GPU can write that.
func (c Control) Process() int {
	if kept, err := c.recorded(); err == nil && kept.Boot == host.Running.BootID() && started(kept.PID) == kept.Start &&
		c.isDaemon(kept.PID) {
		return kept.PID
	}
	for _, pid := range host.Running.Numbered("/proc") {
		if !c.isDaemon(pid) {
			continue
		}
		c.record(pid)
		return pid
	}
	return 0
}

// Kill ends the daemon with SIGKILL if it is still the process pid.
func (c Control) Kill(pid int) error {
	// The descriptor refers to the process, so the check below and the signal concern the same process.
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !c.isDaemon(pid) {
		return fmt.Errorf("process %d is not the MPS control daemon of %s", pid, c.Pipe)
	}
	return unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
}

// isDaemon reports whether a process is the control daemon of this pipe directory:
// it has this process's user, root directory and PID namespace, which no process of a
// container has, runs the control program as a daemon, and was started with the
// directory in its environment.
func (c Control) isDaemon(pid int) bool {
	pipe, ok := daemonAt(pid, Program, filepath.Base(c.Program))
	return ok && pipe == c.Pipe && ofHost(host.Running.Process(pid)+"/")
}

// DefaultPipe is the default pipe directory of a daemon.
const DefaultPipe = "/tmp/nvidia-mps"

// Daemons returns the pipe directories, by PID, of all control daemons that this process can see,
// including those in containers.
func Daemons() map[int]string {
	out := map[int]string{}
	for _, pid := range host.Running.Numbered("/proc") {
		if pipe, ok := daemonAt(pid, Program); ok {
			out[pid] = pipe
		}
	}
	return out
}

// daemonAt returns the pipe directory of a process that runs one of the programs as a control
// daemon. ok is false for any other process.
func daemonAt(pid int, programs ...string) (pipe string, ok bool) {
	proc := host.Running.Process(pid) + "/"
	exe, err := os.Readlink(proc + "exe")
	// The kernel adds this suffix if the program's package was upgraded.
	if err != nil || !slices.Contains(programs, filepath.Base(strings.TrimSuffix(exe, " (deleted)"))) {
		return "", false
	}
	args, _ := os.ReadFile(proc + "cmdline")
	if words := strings.Split(string(args), "\x00"); !slices.Contains(words, "-d") && !slices.Contains(words, "-f") {
		return "", false // it is a client of a daemon
	}
	env, err := os.ReadFile(proc + "environ")
	if err != nil {
		return "", false
	}
	for _, e := range strings.Split(string(env), "\x00") {
		if value, set := strings.CutPrefix(e, "CUDA_MPS_PIPE_DIRECTORY="); set {
			return value, true
		}
	}
	return DefaultPipe, true
}

// ofHost reports whether a process has the same root and PID namespace as this one, so that it is
// not in a container.
func ofHost(proc string) bool {
	for _, link := range []string{"root/.", "ns/pid"} {
		var theirs, ours unix.Stat_t
		if unix.Stat(proc+link, &theirs) != nil || unix.Stat(host.Running.Path("/proc/self")+"/"+link, &ours) != nil ||
			theirs.Dev != ours.Dev || theirs.Ino != ours.Ino {
			return false
		}
	}
	st, err := os.Stat(proc)
	if err != nil {
		return false
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && int(sys.Uid) == os.Geteuid()
}

// started returns when a process started, in clock ticks since the boot, or 0 if it has ended.
func started(pid int) uint64 {
	text, err := os.ReadFile(filepath.Join(host.Running.Process(pid), "stat"))
	if err != nil {
		return 0
	}
	// The name in parentheses may hold anything; the 20th field after it is the start.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	const start = 19
	if len(fields) <= start {
		return 0
	}
	n, _ := strconv.ParseUint(string(fields[start]), 10, 64)
	return n
}

func (c Control) recorded() (identity, error) {
	var kept identity
	if c.Record == "" {
		return kept, os.ErrNotExist
	}
	text, err := readSmall(c.Record)
	if err != nil {
		return kept, err
	}
	return kept, json.Unmarshal(text, &kept)
}

// record saves the daemon's process. Without the file, Process searches for it.
func (c Control) record(pid int) {
	if c.Record == "" {
		return
	}
	text, err := json.Marshal(identity{PID: pid, Start: started(pid), Boot: host.Running.BootID()})
	if err != nil {
		return
	}
	if os.WriteFile(c.Record+".new", text, 0o600) == nil {
		_ = os.Rename(c.Record+".new", c.Record)
	}
}

// smallFile is the maximum size of a file that readSmall reads, in bytes.
const smallFile = 64 << 10

// readSmall reads a regular file of at most smallFile bytes. It follows no link and
// waits for no writer.
func readSmall(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > smallFile {
		return nil, errors.New(path + " is not a regular file of a few bytes")
	}
	return io.ReadAll(io.LimitReader(f, smallFile))
}
