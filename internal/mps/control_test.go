package mps

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// program makes a control program of a shell script.
func program(t *testing.T, script string) Control {
	t.Helper()
	dir := t.TempDir()
	c := Control{Program: filepath.Join(dir, "control"), Pipe: filepath.Join(dir, "pipe"), Log: filepath.Join(dir, "log")}
	// A process that another test starts meanwhile would hold the file open for
	// writing until it runs its own program, and the kernel starts no such file.
	syscall.ForkLock.RLock()
	err := os.WriteFile(c.Program, []byte("#!/bin/sh\n"+script), 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Only a daemon that is not there is down: what goes wrong in asking is told apart.
func TestAnErrorInAskingIsNoDaemonThatIsDown(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		mode   os.FileMode
		want   error
	}{
		"no daemon":        {"echo 'Cannot find MPS control daemon process' >&2; exit 1", 0o755, ErrDown},
		"no permission":    {"exit 0", 0o644, ErrUnasked},
		"an exit status":   {"exit 127", 0o755, ErrUnasked},
		"killed":           {"kill -9 $$", 0o755, ErrUnasked},
		"no answer at all": {"exec sleep 60", 0o755, ErrSilent},
		"no percentage":    {"echo hello", 0o755, ErrSilent},
		"an endless one":   {"exec yes", 0o755, ErrSilent},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			control := program(t, c.script)
			if err := os.Chmod(control.Program, c.mode); err != nil {
				t.Fatal(err)
			}
			if _, err := control.Servers(t.Context()); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestHelpersGetAMinimalEnvironment(t *testing.T) {
	t.Setenv("NOMAD_TOKEN", "secret")
	t.Setenv("CUDA_VISIBLE_DEVICES", "7")
	c := program(t, `env >> "$(dirname $0)/env.$#"; echo 100.0`)
	if _, err := c.Servers(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context(), "GPU-1"); err != nil {
		t.Fatal(err)
	}
	for file, visible := range map[string]string{"env.0": "", "env.1": "CUDA_VISIBLE_DEVICES=GPU-1"} {
		text, err := os.ReadFile(filepath.Join(filepath.Dir(c.Program), file))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Fields(string(text)) {
			key, _, _ := strings.Cut(line, "=")
			switch key {
			case "PATH", "LD_LIBRARY_PATH", "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY":
			case "PWD", "SHLVL", "_", "OLDPWD": // the shell's own
			default:
				if line != visible {
					t.Errorf("%s: the control program was given %s", file, line)
				}
			}
		}
	}
}

// A plugin that is killed while it starts a daemon leaves nothing behind.
func TestAStartMakesNoTemporaryFile(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	c := program(t, fmt.Sprintf(`echo said; ls -A %q > "$(dirname $0)/seen"; exit 1`, dir))
	if err := c.Start(t.Context(), "GPU-1"); err == nil || !strings.Contains(err.Error(), "said") {
		t.Errorf("the error %v does not repeat what the program said", err)
	}
	if seen, err := os.ReadFile(filepath.Join(filepath.Dir(c.Program), "seen")); err != nil || len(seen) > 0 {
		t.Errorf("while the daemon started the temporary folder held %q, %v", seen, err)
	}
}

func TestLogsAreBounded(t *testing.T) {
	c := Control{Log: t.TempDir()}
	log := filepath.Join(c.Log, "control.log")
	text := strings.Repeat("one line of the log\n", maxLog/20+1000) + "the last line\n"
	if err := os.WriteFile(log, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	writer, err := os.OpenFile(log, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	// A link is none of the daemon's files.
	if err := os.Symlink("/etc/passwd", filepath.Join(c.Log, "link.log")); err != nil {
		t.Fatal(err)
	}
	_ = c.BoundLogs()
	fmt.Fprintln(writer, "after it")
	if now, err := os.ReadFile(log); err != nil || string(now) != "after it\n" {
		t.Errorf("%d bytes are left of %d, %v", len(now), len(text), err)
	}
	old, err := os.ReadFile(log + ".old")
	if err != nil || len(old) != keptLog || !strings.HasSuffix(string(old), "the last line\n") {
		t.Errorf("%d bytes are kept, %v", len(old), err)
	}
	if err := os.Remove(filepath.Join(c.Log, "link.log")); err != nil {
		t.Fatal(err)
	}
	if err := c.BoundLogs(); err != nil {
		t.Error(err)
	}
}

// A process is no daemon because a file says so, nor because it has the directory in
// its environment.
func TestAForeignProcessIsNoDaemon(t *testing.T) {
	c := program(t, "")
	if err := os.Mkdir(c.Pipe, 0o755); err != nil {
		t.Fatal(err)
	}
	victim := exec.Command("sleep", "60")
	victim.Env = []string{"CUDA_MPS_PIPE_DIRECTORY=" + c.Pipe}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = victim.Process.Kill(); _ = victim.Wait() }()
	if err := os.WriteFile(filepath.Join(c.Pipe, Program+".pid"), []byte(fmt.Sprint(victim.Process.Pid)), 0o644); err != nil {
		t.Fatal(err)
	}
	c.Record = filepath.Join(c.Pipe, "record")
	c.record(victim.Process.Pid)
	if pid := c.Process(); pid != 0 {
		t.Errorf("process %d is taken for the daemon", pid)
	}
	if err := c.Kill(victim.Process.Pid); err == nil {
		t.Error("a foreign process was killed")
	}
}

func TestReadSmallReadsOnlySmallFiles(t *testing.T) {
	dir := t.TempDir()
	small, large, link := filepath.Join(dir, "small"), filepath.Join(dir, "large"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(small, []byte("x"), 0o600), os.WriteFile(large, make([]byte, smallFile+1), 0o600), os.Symlink(small, link)); err != nil {
		t.Fatal(err)
	}
	if text, err := readSmall(small); err != nil || string(text) != "x" {
		t.Errorf("%q, %v", text, err)
	}
	fifo := filepath.Join(dir, "fifo")
	if out, err := exec.Command("mkfifo", fifo).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, path := range []string{large, link, fifo} {
		if _, err := readSmall(path); err == nil {
			t.Errorf("%s was read", path)
		}
	}
}

// Whatever a program says, no more than the bound is kept of it, however it is copied.
func TestWhatIsKeptOfAnAnswerIsBounded(t *testing.T) {
	var l limited
	n, err := io.Copy(&l, io.LimitReader(zeros{}, 100*maxAnswer))
	if !errors.Is(err, errTooLong) || n > maxAnswer || len(l.String()) > maxAnswer {
		t.Errorf("%d bytes were taken, %d are kept: %v", n, len(l.String()), err)
	}
}

// zeros has no end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
