package rack_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"aliquot.example/e2e/rack"
)

// machine is a rack with a root tree and one MPS daemon's directories.
type machine struct {
	t          *testing.T
	rack       *rack.Rack
	file       *rack.File
	dir, root  string
	pipe, logs string
	gpu        string // UUID that the daemon serves
}

// newMachine needs root to create device nodes. Its folders have short paths, because a socket's
// path is limited to 107 characters, and are accessible to other users.
func newMachine(t *testing.T, name string) *machine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("making device nodes needs root")
	}
	dir, err := os.MkdirTemp("", "rack")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &machine{t: t, dir: dir, root: filepath.Join(dir, "root"), pipe: filepath.Join(dir, "pipe"), logs: filepath.Join(dir, "log")}
	for _, d := range []string{m.root, m.pipe, m.logs} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if m.rack, err = rack.New(dir, name); err != nil {
		t.Fatal(err)
	}
	if m.file, err = m.rack.File(); err != nil {
		t.Fatal(err)
	}
	if err := rack.Root(m.root, m.rack, tools.Lib); err != nil {
		t.Fatal(err)
	}
	m.gpu = m.file.GPUs[0].UUID()
	return m
}

func (m *machine) env() []string {
	return append(tools.Env(m.rack, nil), "CUDA_MPS_PIPE_DIRECTORY="+m.pipe, "CUDA_MPS_LOG_DIRECTORY="+m.logs)
}

// binary returns the test binary, or a copy that other users can run.
func (m *machine) binary(uid uint32) string {
	if uid == 0 {
		return os.Args[0]
	}
	path := filepath.Join(m.dir, "client")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	// This process must not write it: a fork in another test would hold the file open for writing,
	// and exec would fail with "text file busy".
	if out, err := exec.Command("cp", os.Args[0], path).CombinedOutput(); err != nil {
		m.t.Fatalf("cp: %v: %s", err, out)
	}
	return path
}

// control runs the control program with the daemon's environment.
func (m *machine) control(stdin string, args ...string) (string, int) {
	m.t.Helper()
	cmd := exec.Command(filepath.Join(tools.Bin, "nvidia-cuda-mps-control"), args...)
	cmd.Env = append(m.env(), "CUDA_VISIBLE_DEVICES="+m.gpu)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if cmd.ProcessState == nil {
		m.t.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// say sends commands that must succeed.
func (m *machine) say(commands ...string) string {
	m.t.Helper()
	out, code := m.control(strings.Join(commands, "\n") + "\n")
	if code != 0 {
		m.t.Fatalf("%v: exit status %d: %s", commands, code, out)
	}
	return strings.TrimSpace(out)
}

// daemon starts the daemon and stops it when the test ends.
func (m *machine) daemon() {
	m.t.Helper()
	if out, code := m.control("", "-d"); code != 0 || out != "" {
		m.t.Fatalf("-d: exit status %d: %s", code, out)
	}
	m.t.Cleanup(func() {
		if pid := m.daemonPID(); pid != 0 {
			m.control("quit -t 0\n")
		}
	})
}

func (m *machine) daemonPID() int {
	text, _ := os.ReadFile(filepath.Join(m.pipe, "nvidia-cuda-mps-control.pid"))
	pid, _ := strconv.Atoi(string(text))
	return pid
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "the kill", func() bool { return !alive(pid) })
}

// alive also returns false for a zombie.
func alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	after := bytes.LastIndexByte(stat, ')')
	return after+2 < len(stat) && stat[after+2] != 'Z' && stat[after+2] != 'X'
}

func contains(path, text string) bool {
	all, _ := os.ReadFile(path)
	return bytes.Contains(all, []byte(text))
}
