package cluster

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	nomad "github.com/hashicorp/nomad/api"
)

// agentConfig is the configuration of the Nomad agent: server and client in one.
var agentConfig = template.Must(template.New("agent").Parse(`
name       = "aliquot"
data_dir   = "{{.Dir}}/nomad"
plugin_dir = "{{.Dir}}/plugins"
bind_addr  = "127.0.0.1"
log_level  = "debug"

disable_update_check = true

advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}

ports {
  http = {{index .Ports 0}}
  rpc  = {{index .Ports 1}}
  serf = {{index .Ports 2}}
}

server {
  enabled          = true
  bootstrap_expect = 1
  # A loaded machine must not look like a dead node.
  heartbeat_grace  = "60s"
}

client {
  enabled             = true
  servers             = ["127.0.0.1:{{index .Ports 1}}"]
  network_interface   = "{{.Interface}}"
  alloc_mounts_dir    = "{{.Dir}}/alloc_mounts"
  cni_path            = "{{.CNI}}"
  cni_config_dir      = "{{.Dir}}/cni"
  bridge_network_name = "{{.Bridge}}"
  cgroup_parent       = "{{.Cgroup}}"
  min_dynamic_port    = {{.LowPort}}
  max_dynamic_port    = {{.HighPort}}
  gc_max_allocs       = 1000
  options = {
    # These ask a cloud's metadata service, which is not there.
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
  }
{{- range $name, $path := .Volumes}}
  host_volume "{{$name}}" {
    path = "{{$path}}"
  }
{{- end}}
}

consul {
  address = "{{.Consul}}"
}

telemetry {
  collection_interval        = "1s"
  publish_allocation_metrics = true
  publish_node_metrics       = true
  prometheus_metrics         = true
}

plugin "raw_exec" {
  config {
    enabled = true
  }
}

plugin "docker" {
  config {
    # Either driver would remove the other's containers.
    gc {
      image = false
      dangling_containers {
        enabled = false
      }
    }
    volumes {
      enabled = true
    }
  }
}

plugin "aliquot-driver" {
  config {
    {{- if .Root}}
    root    = "{{.Root}}"
    {{- end}}
    run_dir = "{{.Dir}}/run"
    gc {
      image = false
    }
    volumes {
      enabled = true
    }
    {{.Driver}}
  }
}

plugin "aliquot-device-nvidia" {
  config {
    {{- if .Root}}
    root    = "{{.Root}}"
    {{- end}}
    run_dir = "{{.Dir}}/run"
    {{.Device}}
  }
}
`))

// writeAgentConfig chooses ports and writes the configuration of the agent.
func (c *Cluster) writeAgentConfig() error {
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	low, high := dynamicPorts()
	c.NomadAddress = fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	file, err := os.Create(c.path("nomad.hcl"))
	if err != nil {
		return err
	}
	defer file.Close()
	return agentConfig.Execute(file, map[string]any{
		"Dir": c.Dir, "Ports": ports, "LowPort": low, "HighPort": high,
		"Interface": taskInterface(), "CNI": cniPath(),
		"Bridge": bridgeName(c.Dir), "Cgroup": cgroupName(c.Dir),
		"Consul":  strings.TrimPrefix(c.ConsulAddress, "http://"),
		"Volumes": c.options.Volumes, "Driver": c.options.Driver, "Device": c.options.Device,
	})
}

// taskInterface is where the ports of tasks are published: Docker's bridge, whose
// address both the host and containers reach.
func taskInterface() string {
	if _, err := net.InterfaceByName("docker0"); err == nil {
		return "docker0"
	}
	return "lo"
}

// cniPath is where the CNI plugins are, on Debian or as installed by hand.
func cniPath() string {
	paths := []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"}
	i := slices.IndexFunc(paths, func(path string) bool {
		_, err := os.Stat(filepath.Join(path, "bridge"))
		return err == nil
	})
	return paths[max(i, 0)]
}

func bridgeName(dir string) string { return "aliquot" + tag(dir) }
func cgroupName(dir string) string { return "aliquot" + tag(dir) + ".slice" }

// tag is a short part of the directory's random name; the names of network
// interfaces hold 15 bytes.
func tag(dir string) string {
	name := filepath.Base(dir)
	return name[max(0, len(name)-6):]
}

// environment is what the servers see: little of ours, and the rack.
func (c *Cluster) environment() []string {
	env := []string{
		"HOME=" + c.Dir,
		"TMPDIR=" + c.path("tmp"),
		"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin",
		mark + "=" + c.Dir,
	}
	if c.Rack == nil {
		return env
	}
	return c.tools.Env(c.Rack, env)
}

// StartAgent starts the Nomad agent, or starts it again with the state that it
// had, and waits until its node is ready.
func (c *Cluster) StartAgent(ctx context.Context) error {
	path, err := c.tool(ctx, "nomad")
	if err != nil {
		return err
	}
	if c.NomadAddress == "" {
		if err := c.writeAgentConfig(); err != nil {
			return err
		}
		if c.Nomad, err = nomad.NewClient(&nomad.Config{Address: c.NomadAddress}); err != nil {
			return err
		}
	}
	c.Say("starting nomad")
	c.nomad, err = spawn("nomad", c.path("logs", "nomad.log"), c.environment(), path, "agent", "-config", c.path("nomad.hcl"))
	if err != nil {
		return err
	}
	ctx, cancel := c.nomad.context(ctx)
	defer cancel()
	return AwaitWithin(ctx, 90*time.Second, "nomad", func() string {
		node, err := c.Node()
		if err != nil {
			return err.Error()
		}
		return unready(node)
	})
}

// StopAgent stops the Nomad agent in order and leaves its tasks running.
func (c *Cluster) StopAgent() { c.nomad.stop(20 * time.Second) }

// KillAgent ends the Nomad agent as a crash would.
func (c *Cluster) KillAgent() { c.nomad.kill() }

// Node reads the cluster's one node.
func (c *Cluster) Node() (*nomad.Node, error) {
	nodes, _, err := c.Nomad.Nodes().List(nil)
	if err != nil {
		return nil, err
	}
	if len(nodes) == 0 {
		return nil, fmt.Errorf("no node has registered")
	}
	node, _, err := c.Nomad.Nodes().Info(nodes[0].ID, nil)
	return node, err
}

// unready says what keeps a node from running tasks.
func unready(node *nomad.Node) string {
	if node.Status != nomad.NodeStatusReady {
		return "node is " + node.Status
	}
	for _, name := range []string{"aliquot", "raw_exec"} {
		driver := node.Drivers[name]
		if driver == nil || !driver.Detected {
			return "task driver " + name + " is not detected"
		}
		if !driver.Healthy {
			return "task driver " + name + " is not healthy: " + driver.HealthDescription
		}
	}
	return ""
}
