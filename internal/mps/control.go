// Package mps controls NVIDIA's MPS daemon through its control program: commands on stdin, answers
// on stdout (docs.nvidia.com/deploy/mps, appendix "Commands"). It never starts a daemon unless told
// to.
package mps

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Program is the control program's name in PATH.
const Program = "nvidia-cuda-mps-control"

// The errors of requests to a daemon. None of them alone proves that a daemon must be killed:
// Control.Process says whether one runs.
var (
	// ErrDown means that no daemon listens on the pipe directory.
	ErrDown = errors.New("no MPS control daemon answers")
	// ErrSilent means that the control program got no answer in time: the daemon hangs, or this
	// host is busy.
	ErrSilent = errors.New("the MPS control daemon does not answer")
	// ErrUnasked means that the control program did not run to its end. It says nothing about the
	// daemon.
	ErrUnasked = errors.New("cannot query the MPS control daemon")
	// ErrMissing means that the control program is not installed. It is also an ErrUnasked, because an
	// upgrade of its package removes it for a moment.
	ErrMissing = fmt.Errorf("%w: its program is not installed", ErrUnasked)
)

// Status of an MPS server, as the control program prints it.
type Status string

// The statuses of a server. In Fault it refuses new clients until all present ones have ended.
const (
	Initializing Status = "INITIALIZING"
	Active       Status = "ACTIVE"
	Fault        Status = "FAULT"
)

// Control is one daemon, identified by its pipe directory. Every container of the daemon's GPU can
// write to that directory, so Control does not trust its files.
type Control struct {
	// Program is the control program's name or path.
	Program string
	// Pipe and Log are the daemon's directories.
	Pipe, Log string
	// Record is the file in which Process records the daemon's process, "" for none. No container
	// may be able to write it.
	Record string
	// Shm is the mount point of a file system of ShmSize ("25%" of the host's memory, "8g") that is the
	// daemon's /dev/shm. With "" the daemon uses the host's.
	Shm, ShmSize string
}

const (
	// answerTime limits one request, so that a hung daemon does not block its caller.
	answerTime = 5 * time.Second
	// maxAnswer limits an answer: a program that has replaced the daemon in its pipe directory
	// may answer without end.
	maxAnswer = 64 << 10
)

// ask runs the control program with one command per line.
func (c Control) ask(ctx context.Context, commands string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Program)
	cmd.Env = c.env()
	cmd.Stdin = strings.NewReader(commands + "\n")
	cmd.WaitDelay = time.Second
	var out, errs limited
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	output := oneLine(errs.String() + " " + out.String())
	var exit *exec.ExitError
	switch {
	case strings.Contains(output, "Cannot find MPS"):
		return "", fmt.Errorf("%w on %s: %s", ErrDown, c.Pipe, clip(output))
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, os.ErrNotExist):
		return "", c.missing(err)
	case ctx.Err() != nil:
		return "", fmt.Errorf("%w on %s within %s", ErrSilent, c.Pipe, answerTime)
	case out.full || errs.full: // SIGPIPE has ended the program, and Run has returned that
		return "", fmt.Errorf("%w on %s: its answer is longer than %d bytes", ErrSilent, c.Pipe, maxAnswer)
	case errors.As(err, &exit) && exit.Exited():
		return "", fmt.Errorf("%w on %s: %s: %s", ErrUnasked, c.Pipe, exit, clip(output))
	case err != nil:
		return "", fmt.Errorf("%w on %s: %w", ErrUnasked, c.Pipe, err)
	}
	return out.String(), nil
}

func (c Control) missing(err error) error {
	return fmt.Errorf("%w: %s comes with NVIDIA's driver; set mps_control to its path: %w", ErrMissing, c.Program, err)
}

// errTooLong ends a program with too much output.
var errTooLong = errors.New("the answer is too long")

// limited is a buffer for the start of a program's output. The buffer is not embedded, because its
// ReadFrom has no limit.
type limited struct {
	start bytes.Buffer
	full  bool
}

func (l *limited) String() string { return l.start.String() }

func (l *limited) Write(p []byte) (int, error) {
	if l.start.Len()+len(p) > maxAnswer {
		l.full = true
		return 0, errTooLong
	}
	return l.start.Write(p)
}

// inherited are the variables that helper programs inherit, with which they find programs and
// libraries. Other variables of the agent may contain tokens or select GPUs.
var inherited = []string{"PATH", "LD_LIBRARY_PATH"}

// env is the whole environment of the control program and of the daemon.
func (c Control) env() []string {
	var env []string
	for _, key := range inherited {
		if v, ok := os.LookupEnv(key); ok {
			env = append(env, key+"="+v)
		}
	}
	if c.Log != "" {
		env = append(env, "CUDA_MPS_LOG_DIRECTORY="+c.Log)
	}
	return append(env, "CUDA_MPS_PIPE_DIRECTORY="+c.Pipe)
}

// Servers returns the PIDs of the daemon's servers. The same request proves that the daemon
// answers, because it also reads the default percentage. The error wraps ErrDown, ErrSilent or
// ErrUnasked.
func (c Control) Servers(ctx context.Context) ([]int, error) {
	text, err := c.ask(ctx, "get_default_active_thread_percentage\nget_server_list")
	if err != nil {
		return nil, err
	}
	head, rest, _ := strings.Cut(text, "\n")
	if _, err := ParsePercentage(head); err != nil {
		return nil, fmt.Errorf("%w on %s: %w", ErrSilent, c.Pipe, err)
	}
	return ParsePIDs(rest)
}

// StartServer makes a daemon without a server start one for root: a daemon may answer without being
// able to serve.
func (c Control) StartServer(ctx context.Context) error {
	_, err := c.ask(ctx, "start_server -uid 0")
	return err
}

// Status returns the status of a server.
func (c Control) Status(ctx context.Context, server int) (Status, error) {
	text, err := c.ask(ctx, fmt.Sprintf("get_server_status %d", server))
	if err != nil {
		return "", err
	}
	return ParseStatus(text)
}

// Clients returns the PIDs, in the daemon's PID namespace, of all clients of all servers.
func (c Control) Clients(ctx context.Context) ([]int, error) {
	servers, err := c.Servers(ctx)
	if err != nil {
		return nil, err
	}
	var all []int
	for _, server := range servers {
		text, err := c.ask(ctx, fmt.Sprintf("get_client_list %d", server))
		if err != nil {
			return nil, err
		}
		pids, err := ParsePIDs(text)
		if err != nil {
			return nil, err
		}
		all = append(all, pids...)
	}
	return all, nil
}

// Quit stops the daemon and its servers when their clients have ended, at the latest after timeout.
func (c Control) Quit(ctx context.Context, timeout time.Duration) error {
	_, err := c.ask(ctx, fmt.Sprintf("quit -t %d", int(timeout.Seconds())))
	return err
}

// Start starts a daemon for one GPU. The GPU is given by UUID, because ordinals differ for the
// daemon's clients. The daemon runs in a separate session and outlives this process. options are
// further arguments of the control program. The caller must make sure that no other daemon serves
// the GPU.
func (c Control) Start(ctx context.Context, uuid string, options ...string) error {
	for _, dir := range []string{c.Pipe, c.Log} {
		if err := makeShared(dir); err != nil {
			return err
		}
	}
	if err := c.makeShm(); err != nil {
		return err
	}
	// A file, because the daemon keeps the descriptor, which rules out a pipe. It is in memory,
	// because a plugin that is killed meanwhile could not remove a file on disk.
	fd, err := unix.MemfdCreate("aliquot-mps-start", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("cannot create a file for the output of %s: %w", c.Program, err)
	}
	output := os.NewFile(uintptr(fd), "aliquot-mps-start")
	defer output.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*answerTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Program, append([]string{"-d"}, options...)...)
	cmd.Env = append(c.env(), "CUDA_VISIBLE_DEVICES="+uuid)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.run(cmd); err != nil {
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			return c.missing(err)
		}
		text := make([]byte, 1024)
		n, _ := output.ReadAt(text, 0)
		return fmt.Errorf("%s -d for %s: %w: %s", c.Program, uuid, err, clip(string(text[:n])))
	}
	return nil
}

// makeShared creates a directory in which all users can create files but cannot remove those of
// others, like the daemon's default in /tmp, because servers may run as other users.
func makeShared(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o777|os.ModeSticky)
}

// Clean removes the files of a killed daemon from its pipe directory. The directory stays, because
// it is mounted into containers.
func (c Control) Clean() error {
	entries, err := os.ReadDir(c.Pipe)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(c.Pipe, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
