package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/device"

	"aliquot.example/e2e/rack"
	"aliquot.example/e2e/rack/cuda"
)

// rootMark names the rack's tree and makes this test binary the CUDA client of
// client.c, on the rack.
const rootMark = "ALIQUOT_TEST_GPUCHECK_ROOT"

func TestMain(m *testing.M) {
	if root := os.Getenv(rootMark); root != "" {
		os.Exit(onRack(root))
	}
	os.Exit(m.Run())
}

func onRack(root string) int {
	c, err := cuda.Open(cuda.Options{Root: root})
	if err != nil {
		fmt.Println("error=" + err.Error())
		return 3
	}
	defer c.Close()
	fmt.Printf("devices=%d\nsms=%d\n", len(c.Devices), c.Devices[0].SMs)
	if len(os.Args) > 1 {
		step, _ := strconv.Atoi(os.Args[1])
		got := 0
		for step > 0 && c.Alloc(0, step) == nil {
			got += step
		}
		if step < 0 {
			_ = c.Load(0, 30, 10)
		}
		fmt.Printf("allocated_mib=%d\n", got)
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// TestTheRackAnswersAsExpected checks that the rack behaves as the questions expect of real
// hardware, except for nvidia-smi, which it does not have.
func TestTheRackAnswersAsExpected(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("device nodes and mounts need root")
	}
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("no gcc, which builds the rack: scripts/setup installs it")
	}
	dir, err := os.MkdirTemp("", "gc") // short, for the paths of sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	tools, err := rack.Build(t.Context(), filepath.Join(dir, "tools"))
	if err != nil {
		t.Fatal(err)
	}
	plugin := filepath.Join(dir, "aliquot-device-nvidia")
	if out, err := exec.Command("go", "build", "-o", plugin, "aliquot.example/cmd/aliquot-device-nvidia").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r, err := rack.New(dir, "h100")
	if err != nil {
		t.Fatal(err)
	}
	h := host{plugin: plugin, dir: dir, runDir: filepath.Join(dir, "run"), root: filepath.Join(dir, "root")}
	if err := r.SetDriver("version", "615.12.04"); err != nil { // with limits of memory
		t.Fatal(err)
	}
	if err := rack.Root(h.root, r, tools.Lib); err != nil {
		t.Fatal(err)
	}
	// Another user than root speaks to the daemon, too.
	for _, path := range []string{dir, filepath.Join(dir, "tools"), r.Path + ".bin"} {
		_ = os.Chmod(path, 0o755)
	}
	for _, e := range tools.Env(r, nil) {
		if key, value, _ := strings.Cut(e, "="); key == "PATH" || key == "LD_LIBRARY_PATH" || key == "ALIQUOT_RACK" {
			t.Setenv(key, value)
		}
	}
	t.Setenv(rootMark, h.root)
	running, err := h.launch(map[string]any{"mode": "shared", "slices": 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { endDaemons(h.runDir) })
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	groups, err := running.Groups(ctx, func(groups []*device.DeviceGroup) bool { return len(groups) > 0 && groups[0].Devices[0].Healthy })
	if err != nil {
		t.Fatal(err)
	}
	l, err := newTestbed(running, groups, os.Args[0], h)
	if err != nil {
		t.Fatal(err)
	}
	l.logTime = time.Second
	seen := l.ask(ctx)
	var table bytes.Buffer
	if err := write(&table, seen); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", table.String())
	held := "it holds: 20"
	if group, err := controlGroup(); err != nil {
		held = "not settled"
	} else if err := os.Remove(group); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		"ACTIVE", "not settled", "it fails", "1 device, an MPS client", "not over MPS", "20224 of 20270 MiB",
		held,
		"6 slices 30%, 10 slices 30%", "MB a day", "ask yes (\"100.0\"), quit yes", "quit waits; meanwhile the daemon answers and takes no other client", "server lives, its client lives, a new daemon after ",
	} {
		if !strings.Contains(seen[i].seen, want) {
			t.Errorf("%s: %s, want %s", seen[i].asked, seen[i].seen, want)
		}
	}
	running.Kill()
	h.leaveSharing()
	for _, left := range []string{"shm", "compute_mode.json"} {
		if found, _ := filepath.Glob(filepath.Join(h.runDir, "mps", "*", left)); len(found) > 0 {
			t.Errorf("left behind: %v", found)
		}
	}
}
