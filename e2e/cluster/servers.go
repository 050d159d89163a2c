package cluster

import (
	"context"
	"time"
)

// Tool returns the path of a real server, such as nomad-autoscaler.
func (c *Cluster) Tool(ctx context.Context, name string) (string, error) { return c.tool(ctx, name) }

// CrashServer kills the Nomad server, as a crash would, and restarts it with its state. It returns
// when the server is the leader.
func (c *Cluster) CrashServer(ctx context.Context) (err error) {
	c.server.kill()
	if c.server, err = c.agent(ctx, "nomad-server"); err != nil {
		return err
	}
	ctx, cancel := c.server.context(ctx)
	defer cancel()
	return AwaitWithin(ctx, 60*time.Second, "nomad server", func() string {
		_, err := c.Nomad.Status().Leader()
		return why(err)
	})
}

// CrashConsul kills Consul, as a crash would, and restarts it without its state on the same ports.
// It returns when Consul is the leader.
func (c *Cluster) CrashConsul(ctx context.Context) error {
	path, err := c.tool(ctx, "consul")
	if err != nil {
		return err
	}
	c.consul.kill()
	c.consul, err = spawn("consul", c.path("logs", "consul.log"), c.environment(), path,
		"agent", "-dev", "-config-file", c.path("consul.json"))
	if err != nil {
		return err
	}
	ctx, cancel := c.consul.context(ctx)
	defer cancel()
	return AwaitWithin(ctx, 30*time.Second, "consul", func() string {
		leader, err := c.Consul.Status().Leader()
		if err == nil && leader == "" {
			return "there is no leader"
		}
		return why(err)
	})
}
