package aliquot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"aliquot.example/internal/gpu"
	kernel "aliquot.example/internal/host/nvidia"
)

// holdTime is what the device plugin's program may take to start NVML and set a limit.
const holdTime = 10 * time.Second

// holdsNVIDIA reports whether NVIDIA's driver may be able to limit a grant's memory by control group. It
// can for slices from release 615 on. A MIG device needs no limit.
func holdsNVIDIA(s settings, g gpu.Grant) bool {
	return g.Sharing == gpu.SharingMPS && len(g.GPUs) == 1 && kernel.HasLimits(s.host.root())
}

// limitNVIDIA sets the limit through NVML, with the device plugin's program, which is in the same
// directory as this one. NVIDIA advises against writing the kernel's files directly: NVML also supports
// the driver's own accounting on kernels without the controller.
func limitNVIDIA(ctx context.Context, s settings, g gpu.Grant, group string) (by string, err error) {
	root := s.host.root()
	folder := path.Join(cgroups, group)
	if len(dmemRegions(root, "nvidia/")) > 0 {
		if folder, err = passDmem(root, group); err != nil {
			return "", err
		}
	}
	held, err := s.askPlugin(ctx, string(s.host), string(g.GPUs[0]), root.Path(folder),
		strconv.FormatUint(g.Memory.Bytes(), 10))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("NVIDIA's driver: at most %s of %s (memory limits by control group)", gpu.MiBOf(held),
		g.GPUs[0]), nil
}

// askPlugin runs the device plugin's program and returns the limit that is in force, in bytes. It does
// not wait for a program that hangs in the driver, because not even a signal ends it.
func (s settings) askPlugin(ctx context.Context, args ...string) (uint64, error) {
	own, err := os.Executable()
	if err != nil {
		return 0, err
	}
	program := filepath.Join(filepath.Dir(own), nvidiaPlugin)
	ctx, cancel := context.WithTimeout(ctx, holdTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, append([]string{kernel.HoldMemory}, args...)...)
	for _, key := range []string{"PATH", "LD_LIBRARY_PATH"} { // other variables of the agent may be secret
		if value, ok := os.LookupEnv(key); ok {
			cmd.Env = append(cmd.Env, key+"="+value)
		}
	}
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &stderr, time.Second
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("%w: %w", errNoLimit, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		return 0, fmt.Errorf("%s %s has not returned within %s", nvidiaPlugin, kernel.HoldMemory, holdTime)
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == kernel.NoLimits:
		return 0, fmt.Errorf("%w: %s", errNoLimit, strings.TrimSpace(stderr.String()))
	case err != nil:
		return 0, fmt.Errorf("%s %s: %w: %s", nvidiaPlugin, kernel.HoldMemory, err, strings.TrimSpace(stderr.String()))
	}
	held, err := strconv.ParseUint(strings.TrimSpace(out.String()), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s %s printed %q: is it of the same release as the driver?",
			nvidiaPlugin, kernel.HoldMemory,
			out.String())
	}
	return held, nil
}

// nvidiaPlugin is the file name of NVIDIA's device plugin.
const nvidiaPlugin = "aliquot-device-nvidia"
