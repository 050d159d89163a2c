// Package rack is a rack of fake NVIDIA GPUs: a fake libnvidia-ml.so.1 and nvidia-cuda-mps-control
// for the shipped programs. One rack file describes it, which tests edit while the programs run.
// README.md says what in it is real.
package rack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

const (
	module     = "aliquot.example"
	nvmlModule = "github.com/NVIDIA/go-nvml"
	soname     = "libnvidia-ml.so.1"
)

// NewerThan470 lists functions that the NVML library of driver 470 lacks, for Build. In a library
// without them, every unguarded call to one of them crashes the program.
var NewerThan470 = []string{
	"nvmlDeviceGetMemoryInfo_v2",
	"nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v3",
	"nvmlDeviceGetMPSComputeRunningProcesses_v3",
	"nvmlDeviceGetNumGpuCores", "nvmlDeviceGetMemoryBusWidth", "nvmlDeviceGetNumaNodeId",
	"nvmlDeviceGetGpuInstanceProfileInfoV", "nvmlDeviceGetGpuFabricInfoV",
	"nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetTemperatureV", "nvmlDeviceGetSramEccErrorStatus",
}

// Tools are the built fakes.
type Tools struct {
	Lib string // folder of libnvidia-ml.so.1
	Bin string // folder of nvidia-cuda-mps-control, nvidia-cuda-mps-server and devicequery
}

// Build compiles the fakes into dir, unless an earlier run built them from the same sources. It
// needs gcc and go. The library lacks the symbols in without, like that of an older driver.
func Build(ctx context.Context, dir string, without ...string) (Tools, error) {
	t := Tools{Lib: filepath.Join(dir, "lib"), Bin: filepath.Join(dir, "bin")}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return t, err
	}
	t = Tools{Lib: filepath.Join(dir, "lib"), Bin: filepath.Join(dir, "bin")}
	for _, d := range []string{t.Lib, t.Bin} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return t, err
		}
	}
	unlock, err := lockFile(filepath.Join(dir, ".lock"))
	if err != nil {
		return t, err
	}
	defer unlock()
	// Nothing that is built for a user imports this module, so a new machine does not have it yet.
	if _, err := run(ctx, "", "go", "mod", "download", nvmlModule); err != nil {
		return t, err
	}
	where, err := run(ctx, "", "go", "list", "-m", "-f", "{{.Dir}}", module, nvmlModule)
	if err != nil {
		return t, err
	}
	dirs := strings.Fields(where)
	if len(dirs) != 2 {
		return t, fmt.Errorf("go list says %q: want the folders of %s and %s", where, module, nvmlModule)
	}
	source := filepath.Join(dirs[0], "e2e", "rack")
	if err := once(filepath.Join(dir, "lib.hash"), []string{filepath.Join(source, "nvml")},
		dirs[1]+strings.Join(without, ","), func() error {
			return library(ctx, t.Lib, filepath.Join(source, "nvml"), filepath.Join(dirs[1], "pkg", "nvml"), without)
		}); err != nil {
		return t, err
	}
	return t, once(filepath.Join(dir, "bin.hash"), []string{source}, "", func() error {
		return programs(ctx, t.Bin, dirs[0])
	})
}

func library(ctx context.Context, lib, source, header string, without []string) error {
	files, err := filepath.Glob(filepath.Join(source, "*.c"))
	if err != nil {
		return err
	}
	script := filepath.Join(lib, "exports.map")
	// In a version script, an exact name has priority over a wildcard.
	text := "{ global: nvml*; local: *; " + strings.Join(append(slices.Clone(without), ""), "; ") + "};\n"
	if err := os.WriteFile(script, []byte(text), 0o644); err != nil {
		return err
	}
	out := filepath.Join(lib, soname)
	args := append([]string{"-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-deprecated-declarations",
		"-fPIC", "-shared",
		"-Wl,-soname," + soname, "-Wl,--version-script=" + script, "-I" + header, "-o", out + ".new"}, files...)
	if _, err := run(ctx, "", "gcc", append(args, "-lpthread")...); err != nil {
		return err
	}
	return os.Rename(out+".new", out)
}

// programs builds nvidia-cuda-mps-control, which is also the server, under both names, and
// devicequery. They are statically linked and run in any image.
func programs(ctx context.Context, bin, moduleDir string) error {
	for name, pkg := range map[string]string{"nvidia-cuda-mps-control": "mpscontrol", "devicequery": "devicequery"} {
		out := filepath.Join(bin, name)
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w",
			"-o", out+".new", "./e2e/rack/"+pkg)
		cmd.Dir = moduleDir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go build of %s: %w\n%s", name, err, text)
		}
		if err := os.Rename(out+".new", out); err != nil {
			return err
		}
	}
	server := filepath.Join(bin, "nvidia-cuda-mps-server")
	_ = os.Remove(server + ".new")
	if err := os.Link(filepath.Join(bin, "nvidia-cuda-mps-control"), server+".new"); err != nil {
		return err
	}
	return os.Rename(server+".new", server)
}

// once runs make unless stamp says that it already ran for the same sources.
func once(stamp string, sources []string, salt string, make func() error) error {
	h := sha256.New()
	fmt.Fprintln(h, salt)
	for _, source := range sources {
		err := filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, ".md") {
				return err
			}
			text, err := os.ReadFile(path)
			fmt.Fprintln(h, path, len(text))
			h.Write(text)
			return err
		})
		if err != nil {
			return err
		}
	}
	sum := hex.EncodeToString(h.Sum(nil))
	if have, err := os.ReadFile(stamp); err == nil && string(have) == sum {
		return nil
	}
	if err := make(); err != nil {
		return err
	}
	return os.WriteFile(stamp, []byte(sum), 0o644)
}

func run(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", name, err, errs.String())
	}
	return string(out), nil
}

// lockFile prevents two test binaries from building into one folder at the same time.
func lockFile(path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// Env returns env with what a program needs to run on the rack: the fake library first in
// LD_LIBRARY_PATH, the fake MPS control program first in PATH, and the rack file in ALIQUOT_RACK.
// The control program in PATH also finds the rack without that variable, just as a real one knows
// its GPUs. A nil env means the environment of this process.
func (t Tools) Env(r *Rack, env []string) []string {
	if env == nil {
		env = os.Environ()
	}
	kept := slices.DeleteFunc(slices.Clone(env), func(e string) bool {
		return strings.HasPrefix(e, "LD_LIBRARY_PATH=") || strings.HasPrefix(e, "PATH=") ||
			strings.HasPrefix(e, "ALIQUOT_RACK=")
	})
	get := func(key string) string {
		for _, e := range env {
			if v, ok := strings.CutPrefix(e, key+"="); ok && v != "" {
				return ":" + v
			}
		}
		return ""
	}
	return append(kept, "LD_LIBRARY_PATH="+t.Lib+get("LD_LIBRARY_PATH"), "PATH="+t.onRack(r)+":"+t.Bin+get("PATH"),
		"ALIQUOT_RACK="+r.Path)
}

// onRack returns a folder with a control program for this rack. If the folder cannot be created,
// the daemon reports that it has no rack.
func (t Tools) onRack(r *Rack) string {
	dir := r.Path + ".bin"
	const name = "nvidia-cuda-mps-control"
	script := fmt.Sprintf("#!/bin/sh\nALIQUOT_RACK='%s' exec '%s' \"$@\"\n", r.Path, filepath.Join(t.Bin, name))
	if have, err := os.ReadFile(filepath.Join(dir, name)); err == nil && string(have) == script {
		return dir
	}
	_ = os.MkdirAll(dir, 0o755)
	_ = os.WriteFile(filepath.Join(dir, name+".new"), []byte(script), 0o755)
	_ = os.Rename(filepath.Join(dir, name+".new"), filepath.Join(dir, name))
	return dir
}
