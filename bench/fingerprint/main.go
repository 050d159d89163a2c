// Command fingerprint measures aliquot-device-nvidia on racks of 1, 8 and 16 GPUs with 10 slices
// each: the time from Nomad's Fingerprint call to the first response, and the plugin's resident
// memory after it.
//
// "cold" starts an MPS daemon for every GPU. "warm" is the next start of the plugin, which adopts
// the daemons, as after a restart of the agent.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/nomad/plugins/device"

	"aliquot.example/e2e/conformance"
	"aliquot.example/e2e/rack"
)

const rounds = 5

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "fingerprint:", err)
		os.Exit(1)
	}
}

func run() error {
	dir, err := os.MkdirTemp("", "fp-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	tools, err := rack.Build(ctx, filepath.Join(dir, "rack"))
	if err != nil {
		return err
	}
	binary := filepath.Join(dir, "aliquot-device-nvidia")
	if out, err := exec.Command("go", "build", "-o", binary, "aliquot.example/cmd/aliquot-device-nvidia").
		CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "rack\tGPUs\tinstances\tcold ms\twarm ms (median of %d)\tRSS MiB\t\n", rounds)
	for _, name := range []string{"h100", "8xh100", "16xa100"} {
		m, err := measure(ctx, tools, dir, binary, name)
		if err != nil {
			return fmt.Errorf("rack %s: %w", name, err)
		}
		fmt.Fprintf(table, "%s\t%d\t%d\t%.0f\t%.0f\t%.0f\t\n", name, m.gpus, m.instances, ms(m.cold), ms(m.warm), m.rss)
	}
	return table.Flush()
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

type figures struct {
	gpus, instances int
	cold, warm      time.Duration
	rss             float64 // MiB
}

func measure(ctx context.Context, tools rack.Tools, dir, binary, name string) (figures, error) {
	var m figures
	work, err := os.MkdirTemp(dir, name+"-")
	if err != nil {
		return m, err
	}
	r, err := rack.New(work, name)
	if err != nil {
		return m, err
	}
	env := tools.Env(r, nil)
	defer quit(tools, env, work)
	var warm []time.Duration
	for round := range rounds + 1 {
		took, groups, rss, err := once(ctx, binary, env, work)
		if err != nil {
			return m, err
		}
		if round == 0 {
			m.cold = took
			continue
		}
		warm = append(warm, took)
		m.gpus, m.instances, m.rss = len(groups), 0, max(m.rss, rss)
		for _, g := range groups {
			m.instances += len(g.Devices)
		}
	}
	slices.Sort(warm)
	m.warm = warm[len(warm)/2]
	return m, nil
}

func once(ctx context.Context, binary string, env []string, work string) (time.Duration, []*device.DeviceGroup,
	float64, error) {
	plugins, err := os.MkdirTemp(work, "plugins-")
	if err != nil {
		return 0, nil, 0, err
	}
	running, err := conformance.Launch{Binary: binary, Env: env, Dir: plugins, Config: map[string]any{
		"root": work, "run_dir": filepath.Join(work, "run"),
		"gpu": []map[string]any{{"*": []map[string]any{{"mode": "shared", "slices": 10}}}},
	}}.Start()
	if err != nil {
		return 0, nil, 0, err
	}
	defer running.Kill()
	begin := time.Now()
	groups, err := running.Groups(ctx, func(g []*device.DeviceGroup) bool { return len(g) > 0 })
	took := time.Since(begin)
	if err != nil {
		return 0, nil, 0, err
	}
	rss, err := resident(running.PID())
	return took, groups, rss, err
}

// resident returns a process's resident set in MiB.
func resident(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.SplitSeq(string(status), "\n") {
		var kib float64
		if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &kib); err == nil {
			return kib / 1024, nil
		}
	}
	return 0, fmt.Errorf("process %d reports no resident set", pid)
}

// quit ends the MPS daemons, which by design outlive the plugin.
func quit(tools rack.Tools, env []string, work string) {
	pipes, _ := filepath.Glob(filepath.Join(work, "run", "mps", "*", "pipe"))
	for _, pipe := range pipes {
		cmd := exec.Command(filepath.Join(tools.Bin, "nvidia-cuda-mps-control"))
		cmd.Env = append(slices.Clone(env), "CUDA_MPS_PIPE_DIRECTORY="+pipe)
		cmd.Stdin = strings.NewReader("quit -t 1\n")
		_ = cmd.Run()
	}
	rack.Unmount(filepath.Join(work, "run"))
}
