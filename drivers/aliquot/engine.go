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

// client connects as the docker driver does: to the configured endpoint, else to
// the one in the environment.
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

// engineRetry is the pause before the engine's events are asked for again after
// the engine stopped.
const engineRetry = 5 * time.Second

// watchEngine follows the engine's events for as long as the driver lives and
// reports containers of tasks that somebody else kills.
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

// followEngine follows them from a moment on, which it moves to the last that it has
// seen: the engine keeps what happens while nobody listens.
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

// killed reports a SIGKILL that neither Nomad nor this driver sent: a stock docker
// driver removes containers that it does not know in this way.
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
