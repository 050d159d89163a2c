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

	"aliquot.example/e2e/ports"
)

// commonConfig is the configuration that the server and the client share. They are separate agents
// so that a test can restart only the client, and so that the client registers only once the server
// has a leader: a client that fails to register retries half a minute later.
const commonConfig = `
data_dir  = "{{.Dir}}/{{.Role}}"
bind_addr = "127.0.0.1"
log_level = "debug"

disable_update_check = true

advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}

ports {
  http = {{.HTTP}}
  rpc  = {{.RPC}}
  serf = {{.Serf}}
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
`

var serverConfig = template.Must(template.New("server").Parse(commonConfig + `
name = "server"

server {
  enabled          = true
  bootstrap_expect = 1
  # A loaded machine must not look like a dead node.
  heartbeat_grace  = "60s"
}
`))

var clientConfig = template.Must(template.New("client").Parse(commonConfig + `
name       = "{{.Node}}"
plugin_dir = "{{.Plugins}}"

client {
  enabled               = true
  servers               = ["127.0.0.1:{{.ServerRPC}}"]
  node_pool             = "{{.Pool}}"
  network_interface     = "{{.Interface}}"
  alloc_mounts_dir      = "{{.Dir}}/alloc_mounts"
  cni_path              = "{{.CNI}}"
  cni_config_dir        = "{{.Dir}}/cni"
  bridge_network_name   = "{{.Bridge}}"
  bridge_network_subnet = "{{.Subnet}}"
  cgroup_parent         = "{{.Cgroup}}"
  min_dynamic_port      = {{.LowPort}}
  max_dynamic_port      = {{.HighPort}}
  gc_max_allocs         = 1000
  # A replica that is scaled down finishes what it serves.
  max_kill_timeout      = "5m"
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

plugin "raw_exec" {
  config {
    enabled = true
  }
}

plugin "docker" {
  config {
    infra_image = "{{.Pause}}"
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
    # The default one is in a public registry.
    infra_image = "{{.Pause}}"
    gc {
      image = false
    }
    volumes {
      enabled = true
    }
    {{.Driver}}
  }
}

{{- if .NVIDIA}}

plugin "aliquot-device-nvidia" {
  config {
    {{- if .Root}}
    root    = "{{.Root}}"
    {{- end}}
    run_dir = "{{.Dir}}/run"
    {{.Device}}
  }
}
{{- end}}
{{- with .AMD}}

plugin "aliquot-device-amd" {
  config {
    root    = "{{$.Root}}"
    run_dir = "{{$.Dir}}/run"
    {{.Device}}
  }
}
{{- end}}
{{- with .Intel}}

plugin "aliquot-device-intel" {
  config {
    root    = "{{$.Root}}"
    run_dir = "{{$.Dir}}/run"
    {{.Device}}
  }
}
{{- end}}
`))

// writeConfigs chooses ports and writes the configuration of both agents.
func (c *Cluster) writeConfigs() error {
	own, err := ports.Free(5)
	if err != nil {
		return err
	}
	low, high, err := ports.Dynamic()
	if err != nil {
		return err
	}
	subnet, err := bridgeSubnet(c.Dir, overlapsHost)
	if err != nil {
		return err
	}
	c.NomadAddress = fmt.Sprintf("http://127.0.0.1:%d", own[0])
	values := map[string]any{
		"Dir": c.Dir, "Role": "nomad-server", "HTTP": own[0], "RPC": own[1], "Serf": own[2],
		"Consul": strings.TrimPrefix(c.ConsulAddress, "http://"), "ServerRPC": own[1],
		"LowPort": low, "HighPort": high, "Interface": taskInterface(), "CNI": cniPath(),
		"Bridge": bridgeName(c.Dir), "Subnet": subnet, "Cgroup": cgroupName(c.Dir), "Root": c.hostRoot(),
		"Pause": c.pauseImage(), "Pool": "default", "Plugins": c.pluginDir(),
		"Volumes": c.options.Volumes, "Driver": c.driverOf("node"), "Device": c.options.Device,
		"NVIDIA": slices.Contains(c.devicePlugins(), DevicePlugin), "AMD": c.options.AMD, "Intel": c.options.Intel,
	}
	if err := render(serverConfig, c.path("nomad-server.hcl"), values); err != nil {
		return err
	}
	values["Role"], values["HTTP"], values["RPC"], values["Serf"] = "nomad-client", own[3], own[4], 0
	values["Node"], c.values, c.agentAddress = "node", values, fmt.Sprintf("http://127.0.0.1:%d", own[3])
	return render(clientConfig, c.path("nomad-client.hcl"), values)
}

// driverOf returns the driver settings of the options, for one node.
func (c *Cluster) driverOf(node string) string {
	return strings.ReplaceAll(c.options.Driver, "${node}", node)
}

func render(t *template.Template, path string, values any) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return t.Execute(file, values)
}

// taskInterface returns the interface on which ports of tasks are published: Docker's bridge, whose
// address both the host and containers can reach.
func taskInterface() string {
	if _, err := net.InterfaceByName("docker0"); err == nil {
		return "docker0"
	}
	return "lo"
}

// cniPath returns the folder of the CNI plugins, as Debian installs them or as installed by hand.
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

// tag returns a short part of the directory's random name: names of network interfaces are limited
// to 15 bytes.
func tag(dir string) string {
	name := filepath.Base(dir)
	return name[max(0, len(name)-6):]
}

// environment returns the environment of the servers: a few of our variables, and the rack's.
func (c *Cluster) environment() []string {
	env := []string{
		"HOME=" + c.Dir,
		"TMPDIR=" + c.path("tmp"),
		// Jobs run aliquot by its name. Nomad runs the consul program to get the configuration of
		// sidecars.
		"PATH=" + c.bin + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin:" + c.consulDir,
		mark + "=" + c.Dir,
	}
	if c.Rack != nil {
		env = c.tools.Env(c.Rack, env)
	}
	if c.AMD != nil {
		env = c.AMD.Env(c.amdLib, env)
	}
	return env
}

// startServer starts the Nomad server and waits until it is the leader.
func (c *Cluster) startServer(ctx context.Context) error {
	if err := c.writeConfigs(); err != nil {
		return err
	}
	c.Say("starting nomad")
	var err error
	if c.server, err = c.agent(ctx, "nomad-server"); err != nil {
		return err
	}
	if c.Nomad, err = nomad.NewClient(&nomad.Config{Address: c.NomadAddress}); err != nil {
		return err
	}
	ctx, cancel := c.server.context(ctx)
	defer cancel()
	return AwaitWithin(ctx, 60*time.Second, "nomad server", func() string {
		_, err := c.Nomad.Status().Leader()
		return why(err)
	})
}

// StartAgent starts the Nomad client, or restarts it with its previous state, and waits until its
// node is ready.
func (c *Cluster) StartAgent(ctx context.Context) (err error) {
	if c.client, err = c.agent(ctx, "nomad-client"); err != nil {
		return err
	}
	ctx, cancel := c.client.context(ctx)
	defer cancel()
	return AwaitWithin(ctx, 90*time.Second, "nomad client", func() string {
		node, err := c.Node()
		if err != nil {
			return err.Error()
		}
		return unready(node)
	})
}

func (c *Cluster) agent(ctx context.Context, name string) (*process, error) {
	path, err := c.tool(ctx, "nomad")
	if err != nil {
		return nil, err
	}
	// The task driver finds the agents by these variables.
	env := append(c.environment(), "NOMAD_ADDR="+c.agentAddress, "CONSUL_HTTP_ADDR="+c.ConsulAddress)
	args := []string{"agent", "-config", c.path(name + ".hcl")}
	if c.options.Host != nil && name == "nomad-client" {
		path, args = "unshare", c.hostArgs("/usr/bin/nomad", args...)
	}
	return spawn(name, c.path("logs", name+".log"), env, path, args...)
}

// Reconfigure replaces the settings of the device plugin, Options.Device, in the client's
// configuration. They take effect when the client next starts.
func (c *Cluster) Reconfigure(device string) error {
	path := c.path("nomad-client.hcl")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	changed := strings.Replace(string(text), c.options.Device, device, 1)
	if changed == string(text) || c.options.Device == "" {
		return fmt.Errorf("the client's configuration has no %q to replace", c.options.Device)
	}
	c.options.Device = device
	return os.WriteFile(path, []byte(changed), 0o644)
}

// StopAgent stops the Nomad client gracefully and leaves its tasks running.
func (c *Cluster) StopAgent() { c.client.stop(20 * time.Second) }

// KillAgent kills the Nomad client, as a crash would.
func (c *Cluster) KillAgent() { c.client.kill() }

// Node returns the cluster's only node.
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

// unready returns why a node cannot run tasks, or "".
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
