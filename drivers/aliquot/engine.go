package aliquot

import (
	"context"
	"fmt"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"

	"aliquot.example/internal/agent"
)

// client returns a client for the same endpoint as the docker driver's: the configured one, else that in
// the environment.
func (e engineAddress) client() (*client.Client, error) {
	opts := []client.Opt{client.WithAPIVersionNegotiation()}
	if e.endpoint == "" {
		return client.NewClientWithOpts(append(opts, client.FromEnv)...)
	}
	opts = append(opts, client.WithHost(e.endpoint))
	if e.cert+e.key+e.ca != "" {
		opts = append(opts, client.WithTLSClientConfig(e.ca, e.cert, e.key))
	}
	return client.NewClientWithOpts(opts...)
}

// engineRetry is the pause before the next subscription to the engine's events after the last has ended.
const engineRetry = 5 * time.Second

// watchEngine follows the engine's events until the driver ends, and reports tasks whose containers
// another client has killed.
func (d *Driver) watchEngine() {
	since := time.Now()
	for d.ctx.Err() == nil {
		err := d.followEngine(&since)
		d.log.Debug("the container engine's events ended", "error", err)
		select {
		case <-time.After(engineRetry):
		case <-d.ctx.Done():
		}
	}
}

// followEngine follows the engine's events from a time on. It sets since to the time of each event, so
// that the next call misses none: the engine keeps events without a listener.
func (d *Driver) followEngine(since *time.Time) error {
	set, _ := d.settings()
	engine, err := set.engine.client()
	if err != nil {
		return err
	}
	defer engine.Close()
	ctx, cancel := context.WithCancel(d.ctx)
	defer cancel()
	messages, errs := engine.Events(ctx,
		events.ListOptions{Since: fmt.Sprintf("%d.%09d", since.Unix(), since.Nanosecond()), Filters: filters.NewArgs(
			filters.Arg("type", "container"), filters.Arg("event", "kill"))})
	for {
		select {
		case m := <-messages:
			*since = time.Unix(0, m.TimeNano)
			d.killed(m.Actor.ID, m.Actor.Attributes["signal"])
		case err := <-errs:
			return err
		}
	}
}

// killed reports a SIGKILL that neither Nomad nor this driver has sent. Nomad's docker driver removes
// unknown containers in this way.
func (d *Driver) killed(container, signal string) {
	t, ok := d.tasks.of(container)
	if !ok || signal != "9" || t.isExpected() {
		return
	}
	t.expect()
	message := fmt.Sprintf("container %.12s was killed by another client of the container engine, not by Nomad; "+
		"if no person did so, it was a docker driver "+
		"whose gc { dangling_containers } is on and that removes containers that it did not start: %s", container,
		agent.DanglingAdvice)
	d.log.Error(message, "task", t.config.Name, "alloc", t.config.AllocID)
	d.emit(t.config, message, map[string]string{"killed_by": "another client of the container engine"})
}
