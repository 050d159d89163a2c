package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"aliquot.example/e2e/ports"
	"aliquot.example/e2e/rack"
)

// AddClient starts another Nomad client with its own rack and waits until its node is ready and
// offers as many device groups as the rack has GPUs. It has no Consul, because a Consul agent
// serves a single Nomad client.
func (c *Cluster) AddClient(ctx context.Context, name, ofRack string) error {
	return c.AddClientOf(ctx, "default", name, ofRack)
}

// AddClientOf is AddClient for a node of another node pool.
func (c *Cluster) AddClientOf(ctx context.Context, pool, name, ofRack string) error {
	more := &Cluster{
		Dir: c.path(name), Nomad: c.Nomad, NomadAddress: c.NomadAddress, ConsulAddress: c.ConsulAddress,
		options: c.options, root: c.root, bin: c.bin, tools: c.tools, consulDir: c.consulDir,
	}
	for _, dir := range []string{"tmp", "run"} {
		if err := os.MkdirAll(more.path(dir), 0o755); err != nil {
			return err
		}
	}
	var err error
	if more.Rack, err = rack.New(more.Dir, ofRack); err != nil {
		return err
	}
	file, err := more.Rack.File()
	if err != nil {
		return err
	}
	if err := rack.Root(more.hostRoot(), more.Rack, more.tools.Lib); err != nil {
		return err
	}
	if err := os.Symlink(c.path("plugins"), more.path("plugins")); err != nil {
		return err
	}
	if err := c.clientConfig(more, pool, name); err != nil {
		return err
	}
	path, err := c.tool(ctx, "nomad")
	if err != nil {
		return err
	}
	// The process carries the cluster's mark, so that it ends with the cluster.
	env := slices.DeleteFunc(more.environment(), func(v string) bool { return v == mark+"="+more.Dir })
	env = append(env, mark+"="+c.Dir, "NOMAD_ADDR="+more.agentAddress, "CONSUL_HTTP_ADDR="+c.ConsulAddress)
	p, err := spawn(name, c.path("logs", name+".log"), env, path, "agent", "-config", filepath.Join(more.Dir,
		"nomad-client.hcl"))
	if err != nil {
		return err
	}
	c.keep(p)
	ctx, cancel := p.context(ctx)
	defer cancel()
	return AwaitWithin(ctx, 90*time.Second, "nomad client "+name, func() string {
		return c.offers(name, len(file.GPUs))
	})
}

// keep records a client that is to be stopped with the cluster.
func (c *Cluster) keep(p *process) {
	c.moreLock.Lock()
	defer c.moreLock.Unlock()
	c.more = append(c.more, p)
}

// StopClient stops one of the additional clients gracefully.
func (c *Cluster) StopClient(name string) {
	c.moreLock.Lock()
	defer c.moreLock.Unlock()
	for _, p := range c.more {
		if p.name == name {
			p.stop(10 * time.Second)
		}
	}
}

// clientConfig writes the configuration of an additional client: that of the first, except for what
// two clients on one machine must not share.
func (c *Cluster) clientConfig(more *Cluster, pool, name string) error {
	own, err := ports.Free(2)
	if err != nil {
		return err
	}
	more.agentAddress = fmt.Sprintf("http://127.0.0.1:%d", own[0])
	values := map[string]any{}
	for key, value := range c.values {
		values[key] = value
	}
	low, high, err := ports.Dynamic()
	if err != nil {
		return err
	}
	values["Dir"], values["Node"], values["HTTP"], values["RPC"], values["Consul"] = more.Dir, name, own[0], own[1],
		"127.0.0.1:1"
	values["Driver"], values["Pool"], values["Plugins"] = c.driverOf(name), pool, more.path("plugins")
	values["Root"], values["LowPort"], values["HighPort"] = more.hostRoot(), low, high
	return render(clientConfig, more.path("nomad-client.hcl"), values)
}

// offers returns what is missing until a node is ready with n device groups, or "".
func (c *Cluster) offers(name string, n int) string {
	nodes, _, err := c.Nomad.Nodes().List(nil)
	if err != nil {
		return err.Error()
	}
	for _, stub := range nodes {
		if stub.Name != name {
			continue
		}
		node, _, err := c.Nomad.Nodes().Info(stub.ID, nil)
		if err != nil {
			return err.Error()
		}
		if len(node.NodeResources.Devices) != n {
			return fmt.Sprintf("node %s offers %d device groups of %d", name, len(node.NodeResources.Devices), n)
		}
		return unready(node)
	}
	return "node " + name + " has not registered"
}
