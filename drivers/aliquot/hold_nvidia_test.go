package aliquot

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"aliquot.example/e2e/rack"
	"aliquot.example/internal/gpu"
)

// pluginBeside puts a program under the name of NVIDIA's device plugin beside this one,
// where the driver looks for it.
func pluginBeside(t *testing.T, script string) {
	t.Helper()
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(filepath.Dir(own), nvidiaPlugin)
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
}

// The driver has the shipped device plugin limit a control group by NVML, only for slices
// and only where the loaded driver is new enough.
func TestNVIDIAsDriverHoldsMemory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("limits of memory need root")
	}
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("no gcc, which builds the rack: scripts/setup installs it")
	}
	dir := t.TempDir()
	tools, err := rack.Build(t.Context(), filepath.Join(dir, "tools"))
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "plugin")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "aliquot.example/cmd/aliquot-device-nvidia").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r, err := rack.New(dir, "h100")
	if err != nil {
		t.Fatal(err)
	}
	file, err := r.File()
	if err != nil {
		t.Fatal(err)
	}
	root := tree{t, filepath.Join(dir, "root")}
	if err := rack.Root(root.dir, r, tools.Lib); err != nil {
		t.Fatal(err)
	}
	if err := r.SetDriver("version", "615.12.04"); err != nil {
		t.Fatal(err)
	}
	s := attachSettings(root, AttachNodes)
	g := mpsGrant("")
	g.GPUs = []gpu.ID{gpu.ID(file.GPUs[0].UUID())}
	pluginBeside(t, fmt.Sprintf("#!/bin/sh\nexport ALIQUOT_RACK=%s\n[ -z \"$NOMAD_TOKEN\" ] && exec %s \"$@\"\n", r.Path, program))
	t.Setenv("NOMAD_TOKEN", "secret")
	root.file("sys/module/nvidia/version", "550.54.15\n")
	if nvidia.limits(s, g) {
		t.Error("driver 550 has no limits")
	}
	root.file("sys/module/nvidia/version", "615.12.04\n")
	if !nvidia.limits(s, g) || nvidia.limits(s, wholeGrant()) || nvidia.limits(s, migGrant("7/0")) {
		t.Error("only slices are held, and those are")
	}
	root.file("sys/fs/cgroup/docker/x/cgroup.procs", "")
	by, err := nvidia.limit(t.Context(), s, g, "/docker/x")
	if err != nil || by != "NVIDIA's driver: at most 24466 MiB of "+string(g.GPUs[0])+" (memory limits by control group)" {
		t.Errorf("%q, %v", by, err)
	}
	if _, err := nvidia.limit(t.Context(), s, g, "/docker/gone"); err == nil || errors.Is(err, errNoLimit) || !strings.Contains(err.Error(), "not found") {
		t.Errorf("a group that is gone: %v", err)
	}
	// A kernel that has the controller gets it passed on to the group.
	root.file("sys/fs/cgroup/dmem.capacity", "nvidia/0000:1b:00.0/vidmem 85899345920\n")
	root.file("sys/fs/cgroup/cgroup.subtree_control", "memory")
	root.file("sys/fs/cgroup/docker/cgroup.subtree_control", "memory")
	if _, err := nvidia.limit(t.Context(), s, g, "/docker/x"); err != nil {
		t.Error(err)
	}
	if text, _ := os.ReadFile(root.host().path("sys/fs/cgroup/docker/cgroup.subtree_control")); string(text) != "+dmem" {
		t.Errorf("the group above was told %q", text)
	}
	if err := r.SetDriver("version", "610.1"); err != nil {
		t.Fatal(err)
	}
	if _, err := nvidia.limit(t.Context(), s, g, "/docker/x"); !errors.Is(err, errNoLimit) {
		t.Errorf("a library without limits: %v", err)
	}
	pluginBeside(t, "#!/bin/sh\necho nonsense\n")
	if _, err := nvidia.limit(t.Context(), s, g, "/docker/x"); err == nil || !strings.Contains(err.Error(), "same release") {
		t.Errorf("another program: %v", err)
	}
}

// Without the device plugin's program nothing changes.
func TestMemoryIsNotHeldWithoutTheDevicePlugin(t *testing.T) {
	g := mpsGrant("")
	if _, err := nvidia.limit(t.Context(), attachSettings(nvidiaTree(t), AttachNodes), g, "/docker/x"); !errors.Is(err, errNoLimit) {
		t.Errorf("%v", err)
	}
}
