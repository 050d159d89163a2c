// Command gpucheck checks a machine with a real NVIDIA GPU. It runs the shipped device plugin
// through Nomad's plugin loader, lets the plugin start its real MPS daemon in a separate run
// directory, reserves slices as Nomad would, runs CUDA clients with the grant, and prints what was
// granted and what the clients saw. Then it answers questions that only a real GPU can answer. It
// needs root, stops what it started and restores compute modes.
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

	"aliquot.example/e2e/conformance"
	"aliquot.example/e2e/rack"
	"aliquot.example/internal/mps"
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

// missing returns an error that names what this host lacks for the check, or nil.
func missing() error {
	var gaps []error
	if _, err := os.Stat("/proc/driver/nvidia/version"); err != nil {
		gaps = append(gaps,
			errors.New("the NVIDIA kernel driver is not loaded (/proc/driver/nvidia/version is missing)"))
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
	fmt.Printf("without MPS: %s, CUDA %s, %s SMs, %s MiB\n", bare.Seen["name"], bare.Seen["cuda"], bare.Seen["sms"],
		bare.Seen["total_mib"])
	if err := bare.close(); err != nil {
		return err
	}
	runDir := filepath.Join(dir, "run")
	defer endDaemons(runDir)
	h := host{plugin: plugin, dir: dir, runDir: runDir}
	running, err := h.launch(map[string]any{"mode": "shared", "slices": 20})
	if err != nil {
		return err
	}
	defer h.leaveSharing()
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
	wrong := check(ctx, running, groups, program, bare.number("sms"))
	l, err := newTestbed(running, groups, program, h)
	if err != nil {
		return errors.Join(wrong, err)
	}
	return errors.Join(wrong, write(os.Stdout, l.ask(ctx)))
}

// host describes where the plugin runs.
type host struct {
	plugin, dir, runDir string
	root                string // "" for the real one
}

// launch starts the plugin with one gpu block for all GPUs.
func (h host) launch(gpus map[string]any) (*conformance.Running, error) {
	dir, err := os.MkdirTemp(h.dir, "plugins-")
	if err != nil {
		return nil, err
	}
	config := map[string]any{"run_dir": h.runDir, "gpu": []map[string]any{{"*": []map[string]any{gpus}}}}
	if h.root != "" {
		config["root"] = h.root
	}
	return conformance.Launch{Binary: h.plugin, Env: os.Environ(), Dir: dir, Config: config}.Start()
}

// leaveSharing makes the plugin stop its daemons and restore the GPUs' compute modes.
func (h host) leaveSharing() {
	running, err := h.launch(map[string]any{"mode": "off"})
	if err != nil {
		fmt.Fprintln(os.Stderr, "gpu-check: leaving MPS:", err)
		return
	}
	defer running.Kill()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	stream, err := running.Fingerprint(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "gpu-check: leaving MPS:", err)
		return
	}
	go func() {
		for range stream {
		}
	}()
	for tick := time.NewTicker(200 * time.Millisecond); ctx.Err() == nil; <-tick.C {
		left, _ := filepath.Glob(filepath.Join(h.runDir, "mps", "*", "shm"))
		modes, _ := filepath.Glob(filepath.Join(h.runDir, "mps", "*", "compute_mode.json"))
		if len(left)+len(modes) == 0 {
			return
		}
	}
	fmt.Fprintln(os.Stderr,
		"gpu-check: the plugin has not left MPS within 30 s: see nvidia-smi -q -d COMPUTE and the mounts below",
		h.runDir)
}

// endDaemons stops remaining daemons and removes their shared memory if the plugin could not.
func endDaemons(runDir string) {
	pipes, _ := filepath.Glob(filepath.Join(runDir, "mps", "*", "pipe"))
	for _, pipe := range pipes {
		control := mps.Control{Program: mps.Program, Pipe: pipe}
		if control.Process() == 0 {
			continue
		}
		if err := control.Quit(context.Background(), 5*time.Second); err != nil {
			fmt.Fprintln(os.Stderr, "gpu-check: ending the MPS daemon:", err)
		}
	}
	rack.Unmount(runDir)
}
