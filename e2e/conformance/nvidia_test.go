package conformance

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"aliquot.example/e2e/rack"
	"aliquot.example/internal/gpu"
)

func TestNVIDIA(t *testing.T) {
	for name, without := range map[string][]string{"driver 590": nil, "driver 470": rack.NewerThan470} {
		t.Run(name, func(t *testing.T) {
			Run(t, func(t *testing.T) Rig { return nvidiaRig(t, "h100-t4", without...) })
		})
	}
}

func nvidiaRig(t *testing.T, name string, without ...string) Rig {
	t.Helper()
	return nvidiaRigOf(t, nil, name, without...)
}

// nvidiaRigOf returns a rig on a changed copy of a shipped rack.
func nvidiaRigOf(t *testing.T, change func(*rack.File), name string, without ...string) Rig {
	t.Helper()
	dir := filepath.Join(folder, "rack")
	if len(without) > 0 {
		dir += "-old"
	}
	tools, err := rack.Build(t.Context(), dir, without...)
	if err != nil {
		t.Fatal(err)
	}
	r, err := rack.New(t.TempDir(), name)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		if err := r.Edit(func(f *rack.File) error { change(f); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	root := t.TempDir()
	run := short(t)
	if os.Geteuid() != 0 {
		t.Skip("making device nodes needs root")
	}
	if err := rack.Root(root, r, tools.Lib); err != nil {
		t.Fatal(err)
	}
	return Rig{
		Vendor: gpu.NVIDIA, Binary: shipped(t, "aliquot-device-nvidia"),
		Env: tools.Env(r, plain()), Bare: plain(),
		Config:       map[string]any{"root": root, "run_dir": run, "recovery_period": "1s"},
		BareConfig:   map[string]any{"root": t.TempDir(), "run_dir": short(t)},
		Lose:         func(id gpu.ID) error { return r.Lose(string(id)) },
		Restore:      func(id gpu.ID) error { return r.Restore(string(id)) },
		UnitsUnknown: len(without) > 0,
		Close:        func() { quitMPS(t, tools, r, run) },
	}
}

// short creates a folder with a short path, because a socket's path is limited to 107 characters.
func short(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mps-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// quitMPS stops the MPS daemons, which outlive the plugin on purpose.
func quitMPS(t *testing.T, tools rack.Tools, r *rack.Rack, run string) {
	pipes, err := filepath.Glob(filepath.Join(run, "mps", "*", "pipe"))
	if err != nil {
		t.Error(err)
	}
	for _, pipe := range pipes {
		cmd := exec.Command(filepath.Join(tools.Bin, "nvidia-cuda-mps-control"))
		cmd.Env = append(tools.Env(r, plain()), "CUDA_MPS_PIPE_DIRECTORY="+pipe)
		cmd.Stdin = strings.NewReader("quit -t 1\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Logf("quit of the MPS daemon at %s: %v %s", pipe, err, out)
		}
	}
	rack.Unmount(run)
}
