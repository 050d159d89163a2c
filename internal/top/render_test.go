package top

import (
	"fmt"
	"strings"
	"testing"

	"aliquot.example/internal/api"
)

func slicesOf(n int, held map[int]string) []Slice {
	var out []Slice
	for i := range n {
		s := Slice{ID: fmt.Sprintf("GPU-1::%02dof%02d", i, n), Healthy: true}
		if alloc, ok := held[i]; ok {
			s.Allocation, s.Job, s.Task = alloc, "chat", "server"
		}
		out = append(out, s)
	}
	return out
}

func TestBarShowsWhoHoldsWhichSlice(t *testing.T) {
	list := slicesOf(5, map[int]string{1: "aaaa", 3: "bbbb", 4: "bbbb"})
	list[2].Healthy = false
	bar, holders := GPU{Slices: list}.Bar()
	if bar != "ABBx." || len(holders) != 2 || holders[1].Slices != 2 {
		t.Fatalf("got %q, %+v", bar, holders)
	}
}

func TestRenderNamesUnhealthyGPUs(t *testing.T) {
	var b strings.Builder
	err := Render(&b, Snapshot{Nodes: []Node{{ID: "0123456789", Name: "n1", Status: "ready", GPUs: []GPU{{
		Group: "h100-0", Enforcement: "mps-percentage", Level: "cooperative", MemoryMiB: 81000, MemoryUsedMiB: -1, UsePercent: -1,
		Health: "XID 79", Slices: slicesOf(3, nil),
	}}}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"UNHEALTHY: XID 79", "[...]", "mps-percentage (cooperative)", "-/81000 MiB", "01234567"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in:\n%s", want, b.String())
		}
	}
}

func TestRenderServices(t *testing.T) {
	var b strings.Builder
	err := Render(&b, Snapshot{Services: []Service{
		{Name: "chat", Queued: 3, Active: 8, Classes: []Class{{Name: "h100", Replicas: 1, Slots: 4, Active: 4, Rate: 2.5}, {Name: "t4", Replicas: 2, Slots: 4, Active: 4, Asleep: 1}}},
		{Name: "idle"},
		{Name: "text", Quantile: 0.995, Tokens: &api.Tokens{Ended: 30, Met: 27, Missed: 3, TTFT: 0.25, TPOT: 0.0312, Prompt: 60000, Output: 6000}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if out := b.String(); !strings.Contains(out, "2.50/s") || !strings.Contains(out, "2 (1 asleep)") || strings.Count(out, "chat") != 1 || !strings.Contains(out, "idle") || !strings.Contains(strings.Join(strings.Fields(out), " "), "text 30 0.25s 31ms 90.0% of 99.5% 1000 100") {
		t.Fatalf("got:\n%s", out)
	}
}
