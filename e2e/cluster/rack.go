package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/rack"
)

// buildRack builds the fakes and writes the description of the GPUs that this host pretends to
// have. All processes of the cluster that start afterwards see them.
func (c *Cluster) buildRack(ctx context.Context) (err error) {
	if c.options.Rack == "" {
		return nil
	}
	if c.tools, err = rack.Build(ctx, filepath.Join(c.bin, "e2e", "rack")); err != nil {
		return err
	}
	if c.Rack, err = rack.New(c.Dir, c.options.Rack); err != nil {
		return err
	}
	return rack.Root(c.hostRoot(), c.Rack, c.tools.Lib)
}

func (c *Cluster) hasGPUs() bool { return c.Rack != nil || c.AMD != nil || c.Intel != nil }

// hostRoot returns the root below which the plugins find device nodes and libraries; "" without a
// rack, which means the real root.
func (c *Cluster) hostRoot() string {
	if !c.hasGPUs() {
		return ""
	}
	return c.path("root")
}

// awaitDevices waits until the node offers the GPUs of the rack.
func (c *Cluster) awaitDevices(ctx context.Context) error {
	if !c.hasGPUs() {
		return nil
	}
	ctx, cancel := c.client.context(ctx)
	defer cancel()
	return AwaitWithin(ctx, 60*time.Second, "the GPUs of the rack", func() string {
		groups, err := c.Groups()
		if err != nil {
			return err.Error()
		}
		if len(groups) == 0 {
			return "the node offers none"
		}
		for name, group := range groups {
			if healthy(group) == 0 {
				return "no instance of group " + name + " is healthy"
			}
		}
		return ""
	})
}

// Groups returns the device groups that the node offers, by name.
func (c *Cluster) Groups() (map[string]*nomad.NodeDeviceResource, error) {
	node, err := c.Node()
	if err != nil {
		return nil, err
	}
	groups := map[string]*nomad.NodeDeviceResource{}
	for _, group := range node.NodeResources.Devices {
		groups[group.Name] = group
	}
	return groups, nil
}

// healthy counts the healthy instances of a group.
func healthy(group *nomad.NodeDeviceResource) int {
	n := 0
	for _, instance := range group.Instances {
		if instance.Healthy {
			n++
		}
	}
	return n
}

// AwaitHealth waits until a group has want healthy instances. Nomad takes up to ten seconds to send
// a change to its servers.
func (c *Cluster) AwaitHealth(ctx context.Context, group string, want int) error {
	return AwaitWithin(ctx, 45*time.Second, fmt.Sprintf("%d healthy instances of group %s", want, group),
		func() string {
			groups, err := c.Groups()
			if err != nil {
				return err.Error()
			}
			found := groups[group]
			if found == nil {
				return "the node has no such group"
			}
			if have := healthy(found); have != want {
				return fmt.Sprintf("there are %d of %d", have, len(found.Instances))
			}
			return ""
		})
}

// MPSOf returns the UUID of the GPU whose MPS daemon a process uses, taken from its pipe directory,
// or "".
func (c *Cluster) MPSOf(pid int) string {
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return ""
	}
	for _, entry := range strings.Split(string(environ), "\x00") {
		if pipe, ok := strings.CutPrefix(entry, "CUDA_MPS_PIPE_DIRECTORY="); ok {
			return filepath.Base(filepath.Dir(pipe))
		}
	}
	return ""
}

// MPSCommand sends a command to the MPS daemon of a GPU, as any container with slices of it can.
func (c *Cluster) MPSCommand(ctx context.Context, uuid, command string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(c.tools.Bin, "nvidia-cuda-mps-control"))
	cmd.Env = append(c.environment(), "CUDA_MPS_PIPE_DIRECTORY="+c.MPSPipe(uuid))
	cmd.Stdin = strings.NewReader(command + "\n")
	return cmd.Run()
}

// MPSPipe returns the pipe directory of a GPU's MPS daemon.
func (c *Cluster) MPSPipe(uuid string) string { return c.path("run", "mps", uuid, "pipe") }

// HostFile returns the path at which the plugins find a file of the machine.
func (c *Cluster) HostFile(path string) string { return filepath.Join(c.hostRoot(), path) }

// MPSAnswers reports whether the MPS daemon of a GPU answers its control program.
func (c *Cluster) MPSAnswers(ctx context.Context, uuid string) bool {
	return c.MPSCommand(ctx, uuid, "get_default_active_thread_percentage") == nil
}
