package e2e

import (
	"context"
	"testing"

	"aliquot.example/e2e/cluster"
)

// attachment checks the result when a task never opens its GPU, as with the CPU image: a warning,
// or a failure if the job requires attachment.
func attachment(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	config := `image = "${var.image}:cpu"
		attachment_timeout = "2s"
		require_attachment = `
	lax := submit(ctx, t, c, withConfig(config+"false"), cluster.Vars{"name": "lax", "image": c.Image, "slices": 2})
	allocs, err := c.AwaitRunning(ctx, lax, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.AwaitEvent(ctx, allocs[0].ID, "GPU attachment not seen"); err != nil {
		t.Error(err)
	}
	if alloc, _, err := c.Nomad.Allocations().Info(allocs[0].ID, nil); err != nil || alloc.ClientStatus != "running" {
		t.Errorf("a task without its GPU is %s (%v), want only a warning", alloc.ClientStatus, err)
	}

	strict := submit(ctx, t, c, withConfig(config+"true"), cluster.Vars{"name": "strict", "image": c.Image, "slices": 2})
	if _, err := c.AwaitFailure(ctx, strict, "GPU attachment not seen"); err != nil {
		t.Error(err)
	}

	good := submit(ctx, t, c, withConfig(`image = "${var.image}:nvidia"
		require_attachment = true`), cluster.Vars{"name": "good", "image": c.Image, "slices": 2})
	if allocs, err = c.AwaitRunning(ctx, good, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := c.AwaitEvent(ctx, allocs[0].ID, "GPU attachment verified"); err != nil {
		t.Error(err)
	}
}
