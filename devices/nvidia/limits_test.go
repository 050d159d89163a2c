package nvidia_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"aliquot.example/e2e/rack"
	kernel "aliquot.example/internal/host/nvidia"
)

// holds runs the shipped program as the task driver does.
func (b *bench) holds(t *testing.T, env []string, uuid, group string, limit uint64) (out string, status int) {
	t.Helper()
	var said bytes.Buffer
	cmd := exec.Command(b.binary, kernel.HoldMemory, "/", uuid, group, strconv.FormatUint(limit, 10))
	cmd.Env, cmd.Stdout, cmd.Stderr = env, &said, &said
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return strings.TrimSpace(said.String()), cmd.ProcessState.ExitCode()
}

// The limit of a control group is set by NVML and read back, where the driver has such
// limits, and nothing else is taken for that.
func TestMemoryIsLimitedByControlGroup(t *testing.T) {
	t.Parallel()
	b := newBench(t, "h100")
	uuid, group := b.uuids(t)[0], t.TempDir()
	if out, status := b.holds(t, b.env(), uuid, group, 1<<30); status != kernel.NoLimits {
		t.Errorf("a driver before 615: %d, %q", status, out)
	}
	if err := b.SetDriver("version", "615.12.04"); err != nil {
		t.Fatal(err)
	}
	if out, status := b.holds(t, b.env(), uuid, group, 1<<30+1<<20); status != 0 || out != strconv.Itoa(1<<30) {
		t.Errorf("%d, %q, want the limit in whole pages of the driver", status, out)
	}
	if text, err := os.ReadFile(filepath.Join(b.Path+".d", uuid+".limits")); err != nil || string(text) != fmt.Sprintf("0 %d %s\n", 1<<30, group) {
		t.Errorf("the driver was told %q, %v", text, err)
	}
	for name, c := range map[string]struct{ uuid, group, want string }{
		"no group": {uuid, filepath.Join(group, "gone"), "cannot be set: not found"},
		"no GPU":   {"GPU-0", group, "NVML has no GPU GPU-0"},
	} {
		if out, status := b.holds(t, b.env(), c.uuid, c.group, 1<<30); status != 1 || !strings.Contains(out, c.want) {
			t.Errorf("%s: %d, %q, want %q", name, status, out, c.want)
		}
	}
	old, err := rack.Build(t.Context(), filepath.Join(folder, "before-615"), "nvmlDeviceSetMemoryLimits_v1")
	if err != nil {
		t.Fatal(err)
	}
	if out, status := b.holds(t, old.Env(b.Rack, nil), uuid, group, 1<<30); status != kernel.NoLimits || !strings.Contains(out, "lacks nvmlDeviceSetMemoryLimits_v1") {
		t.Errorf("a library without the call: %d, %q", status, out)
	}
}

// unified is a control group of the second version for a test, or skips it.
func unified(t *testing.T) string {
	t.Helper()
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		group := filepath.Join(mount, "aliquot-test-"+strconv.Itoa(os.Getpid()))
		if _, err := os.Stat(filepath.Join(mount, "cgroup.controllers")); err != nil || os.Mkdir(group, 0o755) != nil {
			continue
		}
		t.Cleanup(func() { _ = os.Remove(group) })
		return group
	}
	t.Skip("no control groups of the second version can be made here")
	return ""
}

// The processes of one task together have what was granted; by MPS's own limit each of
// them would.
func TestTwoProcessesOfATaskHaveOneLimit(t *testing.T) {
	t.Parallel()
	b := newBench(t, "h100")
	group := unified(t)
	if err := b.SetDriver("version", "615.12.04"); err != nil {
		t.Fatal(err)
	}
	c := b.plugin(t, "")
	g := named(until(t, c, "healthy", allWell), "h100-0")
	envs := reserve(t, c, g, 0, 4)
	limit := int(*g.Attributes["memory"].Int) * 4 / 20
	one, two := b.program(t, envs), b.program(t, envs)
	for _, p := range []*client{one, two} {
		if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(p.cmd.Process.Pid)), 0o644); err != nil {
			t.Skipf("no process can be put into a control group here: %v", err)
		}
	}
	t.Cleanup(func() { one.end(); two.end() })
	if out, status := b.holds(t, b.env(), b.uuids(t)[0], group, uint64(limit)<<20); status != 0 {
		t.Fatalf("%d, %q", status, out)
	}
	part := fmt.Sprintf("alloc %d", limit*2/3)
	if answer := one.do(t, part); answer != "ok" {
		t.Errorf("two thirds of the grant: %s", answer)
	}
	if answer := two.do(t, part); answer == "ok" {
		t.Error("another process of the task has two thirds as well")
	}
	if answer := two.do(t, fmt.Sprintf("alloc %d", limit/4)); answer != "ok" {
		t.Errorf("what is left of the grant: %s", answer)
	}
}
