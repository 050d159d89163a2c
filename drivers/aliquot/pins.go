package aliquot

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	containerapi "github.com/docker/docker/api/types/container"
)

// pinInterval is the interval at which the driver looks for pins of ended tasks.
const pinInterval = 10 * time.Minute

// watchPins removes the pins of ended tasks: a task may end while the cache does not answer, or
// while the driver is down.
func (d *Driver) watchPins() {
	var suspects map[string]bool
	tick := time.NewTicker(pinInterval)
	defer tick.Stop()
	for {
		var err error
		if suspects, err = d.reapPins(d.ctx, suspects); err != nil {
			d.log.Debug("cannot check the pins of ended tasks", "error", err)
		}
		select {
		case <-tick.C:
		case <-d.ctx.Done():
			return
		}
	}
}

// reapPins removes the pins of owners that had no container in the last round and have none now. It
// returns the owners that have none for the first time.
func (d *Driver) reapPins(ctx context.Context, suspects map[string]bool) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	status, err := d.cache().Status(ctx)
	if err != nil {
		return nil, err
	}
	set, _ := d.settings()
	engine, err := set.engine.client()
	if err != nil {
		return nil, err
	}
	defer engine.Close()
	list, err := engine.ContainerList(ctx, containerapi.ListOptions{All: true})
	if err != nil {
		return nil, fmt.Errorf("containers: %w", err)
	}
	there := map[string]bool{}
	for _, c := range list {
		for _, name := range c.Names {
			there[strings.TrimPrefix(name, "/")] = true
		}
	}
	next := map[string]bool{}
	for owner := range status.Pins {
		container := containerOf(owner)
		switch {
		case container == "" || there[container] || d.models.holds(owner):
		case !suspects[owner]:
			next[owner] = true
		default:
			if err := d.cache().Unpin(ctx, owner); err != nil {
				return nil, err
			}
		}
	}
	return next, nil
}

// ownerForm matches what ownerOf makes of the task IDs of Nomad's client: allocation, task and a short
// random part.
var ownerForm = regexp.MustCompile(`^([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-(.+)-[0-9a-f]{8}$`)

// containerOf returns the name of the container of a pin's owner, or "" if the owner is not a task.
func containerOf(owner string) string {
	m := ownerForm.FindStringSubmatch(owner)
	if m == nil {
		return ""
	}
	return strings.ReplaceAll(m[2]+"-"+m[1], "/", "_")
}
