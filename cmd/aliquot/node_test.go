package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/cli"

	"aliquot.example/e2e/debian"
	"aliquot.example/internal/driver"
	"aliquot.example/internal/gpu"
	"aliquot.example/node"
)

// The plan of a host by its exit codes, which are those of nomad plan, and in both forms.
func TestNodePlan(t *testing.T) {
	if missing := debian.Missing(t.Context(), "../.."); missing != "" {
		t.Skip(missing)
	}
	h, err := debian.New(t.Context(), "../..", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	plan := func(want int, args ...string) (out, problem string) {
		t.Helper()
		ui := cli.NewMockUi()
		if got := (nodePlanCommand{ui}).Run(append([]string{"-root=" + string(h.Root)}, args...)); got != want {
			t.Errorf("node plan %v exits with %d, want %d: %s%s", args, got, want, ui.OutputWriter, ui.ErrorWriter)
		}
		return ui.OutputWriter.String(), ui.ErrorWriter.String()
	}
	if out, _ := plan(0); !strings.Contains(out, "none on the PCI bus: nothing to do") {
		t.Errorf("a host without GPUs: %s", out)
	}
	if err := h.GPU("0000:18:00.0", 0x2330); err != nil {
		t.Fatal(err)
	}
	if _, problem := plan(255); !strings.HasPrefix(problem, "aliquot node plan: refused: the host's package sources offer no driver that fits") || !strings.Contains(problem, "nothing was changed") {
		t.Errorf("a host without sources: %s", problem)
	}
	const version = "580.126.09"
	packages, err := debian.Driver(t.Context(), version, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Publish(t.Context(), packages); err != nil {
		t.Fatal(err)
	}
	out, _ := plan(1, "-version="+version)
	for _, line := range []string{
		"Host      debian 12, kernel " + debian.Kernel + ", Secure Boot off", "GPU       NVIDIA 2330 at 0000:18:00.0  needs H100: 535 or newer",
		"Plan      version 580.126.09 with the closed kernel modules, packages from Debian", "  install nvidia-kernel-dkms=580.126.09-1", "  then    reload the modules when no task runs",
	} {
		if !strings.Contains(out, line) {
			t.Errorf("the plan lacks %q:\n%s", line, out)
		}
	}
	text, _ := plan(1, "-json")
	var p plannedNode
	if err := json.Unmarshal([]byte(text), &p); err != nil || p.Plan == nil || p.Plan.Version != version || len(p.Needs) != 1 || p.Facts.Kernel != debian.Kernel {
		t.Errorf("%v: %s", err, text)
	}
	if _, err := h.Run(t.Context(), "apt-get", "-y", "-q", "-o", "Dpkg::Use-Pty=0", "install", "nvidia-kernel-dkms", "nvidia-smi", "nvidia-cuda-mps"); err != nil {
		t.Fatal(err)
	}
	if err := h.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, _ := plan(0); !strings.Contains(out, "Plan      nothing to do: version 580.126.09 is installed\n  hold    ") {
		t.Errorf("a host that is well: %s", out)
	}
	t.Log(out)
}

// Whoever frees the slot of a node in the middle of a change is warned.
func TestFreeingASlotWarns(t *testing.T) {
	if got := freed("gpu-7", ""); got != "the slot of node gpu-7 is free" {
		t.Error(got)
	}
	if got := freed("gpu-7", driver.Installing); !strings.Contains(got, "warning: the node last reported phase installing") {
		t.Error(got)
	}
}

func TestNodeStatus(t *testing.T) {
	now := time.Unix(1e9, 0)
	s := node.Status{
		Wanted: driver.Wanted{Max: 2},
		Slots:  driver.Slots{Holders: map[string]driver.Holder{"7": {Node: "gpu-7"}}},
		Nodes: []driver.NodeReport{
			{Node: "gpu-7", Class: "h100", Phase: driver.Draining, Wanted: "580.126.09", Drivers: map[gpu.Vendor]driver.Installed{gpu.NVIDIA: {Loaded: "580.95.05"}}, Since: now.Add(-41 * time.Second), Why: "1 allocations are left: chat.server[0]"},
			{Node: "gpu-8", Phase: driver.Current},
		},
	}
	want := `Rollout runs; 1 of 2 slots are taken

Node   Class  Phase     For  Loaded     Wanted      Why
gpu-7  h100   draining  41s  580.95.05  580.126.09  1 allocations are left: chat.server[0]
gpu-8  -      current   -    -          -           `
	if got := statusTable(s, now); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	s.Wanted.Paused = true
	if got := statusTable(s, now); !strings.HasPrefix(got, "Rollout is paused; ") {
		t.Error(got)
	}
	s.Slots.Holders["7"] = driver.Holder{Node: "gpu-7", Failed: "it does not boot"}
	if got := statusTable(s, now); !strings.HasPrefix(got, "Rollout stopped: node gpu-7 failed; ") {
		t.Error(got)
	}
}
