package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"testing"

	"aliquot.example/e2e/cluster"
	"aliquot.example/internal/top"
)

// TestTop runs the shipped command against a node with a job.
func TestTop(t *testing.T) {
	ctx, c := start(t, cluster.Options{Rack: "h100-t4"})
	alloc := run(ctx, t, c, httpJob, appVars(c, 1), 1)[0]
	cmd := exec.CommandContext(ctx, c.Program("aliquot"), "top", "-json", "-no-services")
	cmd.Env = append(os.Environ(), "NOMAD_ADDR="+c.NomadAddress)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var s top.Snapshot
	if err := json.Unmarshal(out, &s); err != nil {
		t.Fatal(err)
	}
	if len(s.Nodes) != 1 || s.Nodes[0].Status != "ready" || s.Nodes[0].Problem != "" || len(s.Nodes[0].GPUs) != 2 {
		t.Fatalf("got %s", out)
	}
	held := 0
	for _, g := range s.Nodes[0].GPUs {
		if len(g.Slices) != 20 || !g.Healthy || g.MemoryUsedMiB < 0 {
			t.Errorf("got %+v", g)
		}
		for _, slice := range g.Slices {
			if slice.Allocation == alloc.ID && slice.Task == "server" {
				held++
			}
		}
	}
	if held != 2 {
		t.Errorf("the allocation holds %d slices, want 2: %s", held, out)
	}
}
