// Package mps talks to NVIDIA's MPS control daemon through its control program:
// commands on stdin, answers on stdout (docs.nvidia.com/deploy/mps, appendix
// "Commands"). It starts no daemon by itself and keeps no state.
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
)

// Program is the control program's name in PATH.
const Program = "nvidia-cuda-mps-control"

// ErrDown says that no daemon answers on the pipe directory.
var ErrDown = errors.New("no MPS control daemon answers")

// Status of an MPS server, as the control program prints it.
type Status string

// The statuses of a server. In Fault it refuses new clients until all clients
// have gone.
const (
	Initializing Status = "INITIALIZING"
	Active       Status = "ACTIVE"
	Fault        Status = "FAULT"
)

// Control is one daemon, named by its pipe directory.
type Control struct {
	// Program is the control program's name or path.
	Program string
	// Pipe and Log are the daemon's directories.
	Pipe, Log string
}

// answerTime bounds one question: a daemon that hangs must not hang its asker.
const answerTime = 5 * time.Second

// ask runs the control program with one command per line.
func (c Control) ask(ctx context.Context, commands string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Program)
	cmd.Env = c.env()
	cmd.Stdin = strings.NewReader(commands + "\n")
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("%s is not installed (it comes with NVIDIA's driver); set mps_control to its path: %w", c.Program, err)
	case ctx.Err() != nil:
		return "", fmt.Errorf("%w on %s within %s", ErrDown, c.Pipe, answerTime)
	case err != nil, strings.Contains(errs.String(), "Cannot find MPS"):
		return "", fmt.Errorf("%w on %s: %s", ErrDown, c.Pipe, oneLine(errs.String()+" "+out.String()))
	}
	return out.String(), nil
}

// env is this process's environment with what selects the daemon and without
// what would select GPUs.
func (c Control) env() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "CUDA_") {
			env = append(env, e)
		}
	}
	if c.Log != "" {
		env = append(env, "CUDA_MPS_LOG_DIRECTORY="+c.Log)
	}
	return append(env, "CUDA_MPS_PIPE_DIRECTORY="+c.Pipe)
}

// Servers asks for the PIDs of the daemon's servers and proves with the same
// question that the daemon serves: it must know its default percentage. The
// error wraps ErrDown when it does not answer.
func (c Control) Servers(ctx context.Context) ([]int, error) {
	text, err := c.ask(ctx, "get_default_active_thread_percentage\nget_server_list")
	if err != nil {
		return nil, err
	}
	head, rest, _ := strings.Cut(text, "\n")
	if _, err := ParsePercentage(head); err != nil {
		return nil, fmt.Errorf("%w on %s: %w", ErrDown, c.Pipe, err)
	}
	return ParsePIDs(rest)
}

// Status asks for the status of a server.
func (c Control) Status(ctx context.Context, server int) (Status, error) {
	text, err := c.ask(ctx, fmt.Sprintf("get_server_status %d", server))
	if err != nil {
		return "", err
	}
	return ParseStatus(text)
}

// Clients asks for the PIDs, in the daemon's PID namespace, of all clients of
// all servers.
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

// Quit ends daemon and servers after their clients, and after timeout whatever
// the clients do.
func (c Control) Quit(ctx context.Context, timeout time.Duration) error {
	_, err := c.ask(ctx, fmt.Sprintf("quit -t %d", int(timeout.Seconds())))
	return err
}

// Start starts a daemon for one GPU, by UUID because ordinals are renumbered for
// the daemon's clients. The daemon lives in a session of its own and outlives
// this process. Options are further arguments of the control program. The caller
// makes sure that no other daemon serves the GPU.
func (c Control) Start(ctx context.Context, uuid string, options ...string) error {
	for _, dir := range []string{c.Pipe, c.Log} {
		if err := makeShared(dir); err != nil {
			return err
		}
	}
	// A file and not a pipe: the daemon keeps the descriptor.
	said, err := os.CreateTemp("", "aliquot-mps-start-*")
	if err != nil {
		return err
	}
	defer said.Close()
	defer os.Remove(said.Name())
	ctx, cancel := context.WithTimeout(ctx, 2*answerTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Program, append([]string{"-d"}, options...)...)
	cmd.Env = append(c.env(), "CUDA_VISIBLE_DEVICES="+uuid)
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s is not installed (it comes with NVIDIA's driver); set mps_control to its path: %w", c.Program, err)
		}
		text, _ := os.ReadFile(said.Name())
		return fmt.Errorf("%s -d for %s: %w: %s", c.Program, uuid, err, oneLine(string(text)))
	}
	return nil
}

// makeShared makes a directory in which servers of other users can make their
// files and nobody can remove another's, like the daemon's default in /tmp.
func makeShared(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o777|os.ModeSticky)
}

// Process returns the PID of the daemon that has this pipe directory, answering
// or not; 0 when none runs. It believes the PID file only where the process
// carries the directory in its environment, since PIDs are used again.
func (c Control) Process() int {
	text, err := os.ReadFile(filepath.Join(c.Pipe, Program+".pid"))
	if err != nil {
		return 0
	}
	pids, err := ParsePIDs(string(text))
	if err != nil || len(pids) != 1 {
		return 0
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pids[0]))
	if err != nil || !bytes.Contains(append([]byte{0}, env...), []byte("\x00CUDA_MPS_PIPE_DIRECTORY="+c.Pipe+"\x00")) {
		return 0
	}
	return pids[0]
}

// Clean removes what a daemon that was killed left in its pipe directory. The
// directory stays: it is mounted into containers.
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
