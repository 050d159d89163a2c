package e2e

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"aliquot.example/e2e/cluster"
)

// fourJob requests four GPUs and does not use them.
const fourJob = `
variable "name" {}
job "four" {
  id   = var.name
  name = var.name
  meta {
    aliquot_pack   = "none"
    aliquot_island = "numa"
  }
  group "work" {
    task "sleep" {
      driver = "raw_exec"
      config {
        command = "/bin/sleep"
        args    = ["3600"]
      }
      resources {
        cpu    = 10
        memory = 10
        device "nvidia/gpu" {
          count = 4
        }
      }
    }
  }
}`

// islands places two jobs of four GPUs each on eight GPUs, four at each of two NUMA nodes. The
// second job gets its island once the plugin has read what the first holds.
func islands(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	file := filepath.Join(t.TempDir(), "four.nomad.hcl")
	if err := os.WriteFile(file, []byte(fourJob), 0o644); err != nil {
		t.Fatal(err)
	}
	p := packing{c: c}
	var got []string
	on := ""
	for _, name := range []string{"first", "second"} {
		p.command(ctx, t, "job", "run", "-var", "name="+name, file)
		purge(ctx, t, c, name)
		allocs, err := c.AwaitRunning(ctx, name, 1)
		if err != nil {
			t.Fatal(err)
		}
		var held []string
		for _, d := range devices(t, allocs[0]) {
			held = append(held, string(d.GPU))
		}
		slices.Sort(held)
		got, on = append(got, strings.Join(held, ",")), allocs[0].NodeID
	}
	node, _, err := c.Nomad.Nodes().Info(on, nil)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, g := range node.NodeResources.Devices {
		for _, island := range []string{"unique.numa_0", "unique.numa_1"} {
			ids := strings.Split(*g.Attributes[island].StringVal, ",")
			slices.Sort(ids)
			want = append(want, strings.Join(ids, ","))
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the jobs hold %v, want one island each of %v", got, want)
	}
	for _, name := range []string{"first", "second"} {
		if err := c.Purge(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
}
