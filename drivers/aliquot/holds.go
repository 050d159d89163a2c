package aliquot

import (
	"context"
	"strings"
	"time"
)

const (
	// modelsAttribute is the node attribute that lists the models which the node holds. It
	// is not among those of packing policies, and stays out of the node's class.
	modelsAttribute = "unique.cache.models"
	// holdLook is how often the cache is asked for them, mostHeld how many are named.
	holdLook = time.Minute
	mostHeld = 64
)

// watchHeld publishes which models the node holds, for jobs that prefer such nodes. It
// changes when a model becomes whole or is evicted, which is rare.
func (d *Driver) watchHeld(ctx context.Context) {
	published := ""
	tick := time.NewTicker(holdLook)
	defer tick.Stop()
	for {
		ask, cancel := context.WithTimeout(ctx, 10*time.Second)
		status, err := d.cache().Status(ask)
		cancel()
		// A cache that is away keeps its models.
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

// heldList writes names as set_contains of an affinity reads them.
func heldList(names []string) string {
	var out []string
	for _, name := range names {
		if !strings.Contains(name, ",") && len(out) < mostHeld {
			out = append(out, name)
		}
	}
	return strings.Join(out, ",")
}
