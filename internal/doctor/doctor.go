// Package doctor looks for what keeps a node from serving GPUs well and says how
// to mend it. Facts are collected first; the findings follow from them alone.
package doctor

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"aliquot/internal/gpu"
)

// Level of a finding.
type Level string

// The levels: a failure keeps tasks from running or endangers them, a warning
// costs something, ok is said so that a reader sees what was looked at.
const (
	OK      Level = "ok"
	Warning Level = "warn"
	Failure Level = "FAIL"
)

// Finding is one line of the report.
type Finding struct {
	Level Level  `json:"level"`
	Check string `json:"check"`
	What  string `json:"what"`
	// Fix says what to do, "" for OK.
	Fix string `json:"fix,omitempty"`
}

// Facts are what the findings follow from.
type Facts struct {
	// Agent is the answer of /v1/agent/self of the node's Nomad agent.
	Agent *api.AgentSelf
	// Node is the node of that agent, nil for an agent that is no client.
	Node *api.Node
	// DefaultMPSDirectory tells that /tmp/nvidia-mps exists on this host.
	DefaultMPSDirectory bool
}

// Examine returns one finding or more for each check.
func Examine(f Facts) []Finding {
	if f.Node == nil {
		return []Finding{{Failure, "client", "the Nomad agent is no client, so it runs no tasks", "run this on a client node, or point NOMAD_ADDR at one"}}
	}
	return slices.Concat(driver(f), dangling(f), devices(f), killTimeout(f), telemetry(f), mpsDirectory(f))
}

func driver(f Facts) []Finding {
	d := f.Node.Drivers["aliquot"]
	switch {
	case d == nil || !d.Detected:
		return []Finding{{Failure, "driver", "the task driver aliquot is not loaded", `put aliquot-driver into the agent's plugin_dir and a plugin "aliquot-driver" block into its configuration`}}
	case !d.Healthy:
		return []Finding{{Failure, "driver", "the task driver aliquot is unhealthy: " + d.HealthDescription, "see the agent's log for aliquot-driver"}}
	}
	return []Finding{{OK, "driver", "the task driver aliquot is healthy", ""}}
}

// dangling finds the stock docker driver on the same engine with its collection
// of unknown containers on: it would remove the containers of aliquot's tasks.
func dangling(f Facts) []Finding {
	stock := f.Node.Drivers["docker"]
	ours := f.Node.Drivers["aliquot"]
	if stock == nil || !stock.Detected || ours == nil || !ours.Detected {
		return []Finding{{OK, "dangling", "no second docker driver shares the engine", ""}}
	}
	on, known := danglingOn(f.Agent.Config, "docker")
	switch {
	case !known:
		return []Finding{{Warning, "dangling", "the docker driver is active too and its configuration cannot be read", danglingFix}}
	case on:
		return []Finding{{Failure, "dangling", "the docker driver removes containers that it does not know, those of the aliquot driver among them", danglingFix}}
	}
	return []Finding{{OK, "dangling", "the docker driver leaves containers of other drivers alone", ""}}
}

const danglingFix = `add  plugin "docker" { config { gc { dangling_containers { enabled = false } } } }  to the agent's configuration, or options = { "driver.denylist" = "docker" } to its client block`

// danglingOn reads gc.dangling_containers.enabled of one docker-based driver;
// Nomad's default is true. The second result is false when the configuration has
// a form that is not understood.
func danglingOn(config map[string]any, plugin string) (on, known bool) {
	plugins, ok := config["Plugins"].([]any)
	if !ok {
		return true, config["Plugins"] == nil
	}
	for _, p := range plugins {
		block, ok := p.(map[string]any)
		if !ok || block["Name"] != plugin {
			continue
		}
		value, found := descend(block["Config"], "gc", "dangling_containers", "enabled")
		if !found {
			return true, true
		}
		enabled, isBool := value.(bool)
		return enabled, isBool
	}
	return true, true
}

// descend follows keys through maps and the one-element lists in which HCL blocks
// are kept.
func descend(v any, keys ...string) (any, bool) {
	if list, ok := v.([]any); ok {
		if len(list) == 0 {
			return nil, false
		}
		return descend(list[len(list)-1], keys...)
	}
	if len(keys) == 0 {
		return v, v != nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, false
	}
	return descend(m[keys[0]], keys[1:]...)
}

func devices(f Facts) []Finding {
	var out []Finding
	if f.Node.NodeResources != nil {
		for _, g := range f.Node.NodeResources.Devices {
			if g.Type == gpu.DeviceType {
				out = append(out, group(g))
			}
		}
	}
	if len(out) == 0 {
		return []Finding{{Failure, "devices", "the node offers no GPU", "check that the vendor's driver is loaded (nvidia-smi, amd-smi) and that aliquot-device-nvidia or aliquot-device-amd is in plugin_dir; its log says what it found"}}
	}
	return out
}

func group(g *api.NodeDeviceResource) Finding {
	var reasons []string
	for _, d := range g.Instances {
		if !d.Healthy && !slices.Contains(reasons, d.HealthDescription) {
			reasons = append(reasons, d.HealthDescription)
		}
	}
	name := g.Vendor + "/" + g.Type + "/" + g.Name
	if len(reasons) > 0 {
		return Finding{Failure, "devices", name + " is unhealthy: " + strings.Join(reasons, "; "), "see docs/operations.md for the reason"}
	}
	return Finding{OK, "devices", fmt.Sprintf("%s has %d healthy instances", name, len(g.Instances)), ""}
}

// shortKill is a cap on kill_timeout that answers of language models outlast.
const shortKill = time.Minute

// killTimeout looks at how long a replica that is scaled down, or a gateway that is
// stopped, may finish what it serves: Nomad silently caps what the job asks for.
func killTimeout(f Facts) []Finding {
	const fix = `client { max_kill_timeout = "10m" }, or longer than the longest request`
	value, _ := descend(f.Agent.Config, "Client", "MaxKillTimeout")
	text, _ := value.(string)
	most, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return []Finding{{Warning, "stopping", "the agent's max_kill_timeout cannot be read", fix}}
	case most < shortKill:
		return []Finding{{Warning, "stopping", fmt.Sprintf("max_kill_timeout is %s: a replica that is scaled down loses the requests that take longer, whatever its job's kill_timeout is", most), fix}}
	}
	return []Finding{{OK, "stopping", fmt.Sprintf("a stopped replica may take up to %s to finish its requests (max_kill_timeout)", most), ""}}
}

func telemetry(f Facts) []Finding {
	on, _ := descend(f.Agent.Config["Telemetry"], "PublishAllocationMetrics")
	if on == true {
		return []Finding{{OK, "telemetry", "allocation metrics are published", ""}}
	}
	return []Finding{{Warning, "telemetry", "Nomad publishes no allocation metrics, so nomad alloc status -stats shows no GPU use per task", "add  telemetry { publish_allocation_metrics = true  prometheus_metrics = true }  to the agent's configuration"}}
}

func mpsDirectory(f Facts) []Finding {
	if !f.DefaultMPSDirectory {
		return nil
	}
	return []Finding{{Warning, "mps", "/tmp/nvidia-mps exists: NVIDIA's container runtime mounts it into every GPU container, which then talks to another MPS daemon than its own", "end the daemon that uses it and remove the directory"}}
}
