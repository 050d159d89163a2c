package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// programs are the directories of a host's programs, those of the administrator first.
var programs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// Program returns the path of a program relative to the root, or "" if there is none.
func (r Root) Program(name string) string {
	for _, dir := range programs {
		path := dir + "/" + name
		if info, err := os.Stat(r.Path(r.Behind(path))); err == nil && info.Mode().IsRegular() &&
			info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// ErrNoProgram is the error for a program that the host does not have.
var ErrNoProgram = errors.New("is not on the host")

// Command prepares to run a program of the host with the host's root as its root directory. The
// program does not get the caller's environment, which may contain tokens. For a root other than
// "/", the caller must be root.
func (r Root) Command(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	path := r.Program(name)
	if path == "" {
		return nil, fmt.Errorf("program %s %w", name, ErrNoProgram)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Path, cmd.Err, cmd.Dir = path, nil, "/"
	cmd.Env = []string{"PATH=" + strings.Join(programs, ":"),
		"HOME=/root", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_MODE=l"}
	// A separate process group, because Ctrl-C in a terminal must not interrupt an installation.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// When the context ends, the whole group is killed, because a child that hangs would keep the
	// pipes open and block the caller. A child that continues in the background blocks it only for
	// WaitDelay.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	if r != Running && r != "" {
		cmd.SysProcAttr.Chroot = string(r)
	}
	return cmd, nil
}

// Output runs a program of the host and returns what it prints. Its error is one line.
func (r Root) Output(ctx context.Context, name string, args ...string) (string, error) {
	cmd, err := r.Command(ctx, name, args...)
	if err != nil {
		return "", err
	}
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // the program has ended; a service that it has started keeps the pipe open
	}
	if err != nil && ctx.Err() != nil {
		return string(out), fmt.Errorf("%s was killed: %w", name, context.Cause(ctx))
	}
	if err != nil {
		return string(out), fmt.Errorf("%s: %w", name, ended(err))
	}
	return string(out), nil
}

// ended adds the last line that a program printed on its standard error.
func ended(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(exit.Stderr)), "\n")
	if last := strings.TrimSpace(lines[len(lines)-1]); last != "" {
		return fmt.Errorf("%w: %s", err, last)
	}
	return err
}

// DriverChange is the name of a file in the run_dir of device plugins. While it exists, a plugin
// does not use the driver, because another driver is about to be loaded.
const DriverChange = "driver-change"
