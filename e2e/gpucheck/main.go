// Command gpucheck checks a machine with a real NVIDIA GPU: it runs the shipped
// device plugin through Nomad's plugin loader, lets it start its real MPS daemon in
// a run directory of its own, reserves slices as Nomad would, runs CUDA clients
// with what was granted, and prints granted against seen. It changes no setting of
// any GPU and ends what it started.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hashicorp/nomad/plugins/device"

	"aliquot/e2e/conformance"
	"aliquot/internal/mps"
)

func main() {
	plugin := flag.String("plugin", "bin/aliquot-device-nvidia", "the built device plugin")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *plugin); err != nil {
		fmt.Fprintln(os.Stderr, "gpu-check:", err)
		stop()
		os.Exit(1)
	}
}

// missing names what this host lacks for the check, nil when nothing.
func missing() error {
	var gaps []error
	if _, err := os.Stat("/proc/driver/nvidia/version"); err != nil {
		gaps = append(gaps, errors.New("the NVIDIA kernel driver is not loaded (/proc/driver/nvidia/version is missing)"))
	}
	if _, err := exec.LookPath(mps.Program); err != nil {
		gaps = append(gaps, fmt.Errorf("%s is not on PATH (it comes with NVIDIA's driver)", mps.Program))
	}
	if _, err := exec.LookPath("cc"); err != nil {
		if _, err := exec.LookPath("gcc"); err != nil {
			gaps = append(gaps, errors.New("there is no C compiler (cc or gcc)"))
		}
	}
	return errors.Join(gaps...)
}

func run(ctx context.Context, plugin string) error {
	if err := missing(); err != nil {
		return fmt.Errorf("this machine cannot run the check:\n%w", err)
	}
	dir, err := os.MkdirTemp("", "aliquot-gpu-check-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program, err := compile(ctx, dir)
	if err != nil {
		return err
	}
	bare, err := launch(ctx, program, nil, 0)
	if err != nil {
		return fmt.Errorf("CUDA does not work here even without MPS: %w", err)
	}
	fmt.Printf("without MPS: %s, CUDA %s, %s SMs, %s MiB\n", bare.Seen["name"], bare.Seen["cuda"], bare.Seen["sms"], bare.Seen["total_mib"])
	if err := bare.close(); err != nil {
		return err
	}
	pluginDir := filepath.Join(dir, "plugins")
	if err := os.Mkdir(pluginDir, 0o755); err != nil {
		return err
	}
	runDir := filepath.Join(dir, "run")
	defer endDaemons(runDir)
	running, err := conformance.Launch{Binary: plugin, Env: os.Environ(), Dir: pluginDir, Config: map[string]any{
		"run_dir": runDir, "gpu": []map[string]any{{"*": []map[string]any{{"mode": "shared", "slices": 20}}}},
	}}.Start()
	if err != nil {
		return err
	}
	defer running.Kill()
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	begin := time.Now()
	groups, err := running.Groups(wait, func(groups []*device.DeviceGroup) bool {
		for _, g := range groups {
			if g.Devices[0].Healthy {
				return true
			}
		}
		return false
	})
	if err != nil {
		return fmt.Errorf("the plugin offers no healthy slice: %w", err)
	}
	fmt.Printf("fingerprint with MPS daemons started: %d ms\n", time.Since(begin).Milliseconds())
	return check(ctx, running, groups, program, bare.number("sms"))
}

// endDaemons ends the MPS daemons, which outlive the plugin on purpose.
func endDaemons(runDir string) {
	pipes, _ := filepath.Glob(filepath.Join(runDir, "mps", "*", "pipe"))
	for _, pipe := range pipes {
		control := mps.Control{Program: mps.Program, Pipe: pipe}
		if err := control.Quit(context.Background(), 5*time.Second); err != nil {
			fmt.Fprintln(os.Stderr, "gpu-check: ending the MPS daemon:", err)
		}
	}
}
