package cluster

import (
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

// mark is a variable in the environment of every process of a cluster, including child processes.
// Its value is the directory of the cluster. The reaper finds the processes by it.
const mark = "ALIQUOT_CLUSTER"

// Mark returns an environment variable that makes a process end with the cluster at the latest.
func (c *Cluster) Mark() string { return mark + "=" + c.Dir }

// process is one server of a cluster.
type process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid once done is closed
}

// spawn starts a server in its own session, so that Ctrl-C in the terminal reaches only the
// harness. The server's output is appended to log.
func spawn(name, log string, env []string, path string, args ...string) (*process, error) {
	if err := os.MkdirAll(filepath.Dir(log), 0o755); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(path, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s does not start: %w", name, err)
	}
	p := &process{name: name, log: log, cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// exited returns an error with the end of the log if the process has ended.
func (p *process) exited() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended (%v); the end of %s:\n%s", p.name, p.err, p.log, tail(p.log, 15))
	default:
		return nil
	}
}

// context returns a context that is canceled when the process ends, so that waits on the process
// end with it.
func (p *process) context(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-p.done:
			cancel(p.exited())
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// stop terminates the process, and kills it if it has not ended within patience.
func (p *process) stop(patience time.Duration) {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(patience):
		p.kill()
	}
}

// kill kills the process, as a crash would.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// tail returns the last lines of a file, indented.
func tail(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return "  " + err.Error()
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return "  " + strings.Join(all, "\n  ")
}

// marked returns the IDs of the processes that carry the mark of a cluster or belong to an MPS
// daemon below its directory. MPS processes get an almost empty environment, so they carry no mark.
func marked(dir string) []int {
	var found []int
	want, ofMPS := "\x00"+mark+"="+dir+"\x00", "\x00CUDA_MPS_PIPE_DIRECTORY="+dir+"/"
	paths, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range paths {
		environ, err := os.ReadFile(path)
		text := "\x00" + string(environ) + "\x00"
		if err != nil || !strings.Contains(text, want) && !strings.Contains(text, ofMPS) {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(path, "/proc/%d/environ", &pid); err == nil && pid != os.Getpid() {
			found = append(found, pid)
		}
	}
	return found
}

// Processes returns the IDs of the cluster's processes whose executable has the
// given name, for tests that kill one.
func (c *Cluster) Processes(executable string) []int {
	var found []int
	for _, pid := range marked(c.Dir) {
		path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		// The kernel adds " (deleted)" if the program was rebuilt since.
		if err == nil && filepath.Base(strings.TrimSuffix(path, " (deleted)")) == executable {
			found = append(found, pid)
		}
	}
	return found
}

// alive reports whether a process exists and is not a zombie.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z") && !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}
