package aliquot

import (
	"context"
	"strings"
	"time"
)

const (
	// modelsAttribute is the node attribute that lists the models on the node. Packing policies do
	// not use it, and as a unique attribute it does not affect the node's class.
	modelsAttribute = "unique.cache.models"
	// holdInterval is the interval of requests to the cache for the list, maxHeld its maximum length.
	holdInterval = time.Minute
	maxHeld      = 64
)

// watchHeld publishes which models are on the node, for jobs that prefer such nodes. The list changes
// only when a model is complete or evicted, which is rare.
func (d *Driver) watchHeld(ctx context.Context) {
	published := ""
	tick := time.NewTicker(holdInterval)
	defer tick.Stop()
	for {
		ask, cancel := context.WithTimeout(ctx, 10*time.Second)
		status, err := d.cache().Status(ask)
		cancel()
		// If the cache does not answer, its models are still there.
		if list := heldList(status.Held); err == nil && list != published {
			published = list
			d.levels.set(map[string]string{modelsAttribute: list})
		}
		select {
		case <-ctx.Done():
			return
		case <-d.models.brought:
		case <-tick.C:
		}
	}
}

// heldList formats names for the operator set_contains of an affinity.
func heldList(names []string) string {
	var out []string
	for _, name := range names {
		if !strings.Contains(name, ",") && len(out) < maxHeld {
			out = append(out, name)
		}
	}
	return strings.Join(out, ",")
}
