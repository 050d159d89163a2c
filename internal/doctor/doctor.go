// Package doctor looks for what keeps a node from serving GPUs well and says how
// to mend it. Facts are collected first; the findings follow from them alone.
package doctor

import (
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/agent"
	"aliquot.example/internal/cacheapi"
	kernel "aliquot.example/internal/driver"
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
	// MPSDaemons are the pipe directories of the MPS control daemons on this host, by
	// PID. Those of the device plugin lie below its run_dir.
	MPSDaemons map[int]string
	// Unnamed are device nodes of GPUs that systemd cannot name, on a host that it runs.
	Unnamed []string
	// Asks are the requests for GPUs of all jobs that could be read, JobsProblem why
	// they could not.
	Asks        []Ask
	JobsProblem string
	// Bridged are the groups of the jobs that share a network of their own with a task of
	// the aliquot driver.
	Bridged []Bridged
	// Servers are the versions of Nomad's servers, none where they cannot be read.
	Servers []string
	// Cache is the state of the node's cache of models, nil where none answers. CacheProblem
	// is why one that the driver is configured for does not answer, "" otherwise.
	Cache        *cacheapi.Status
	CacheProblem string
	// Host is what the host has of GPU drivers, nil where it is not this one.
	Host *kernel.Facts
	// Preemption is on for jobs of type service or batch.
	Preemption bool
}

// Examine returns one finding or more for each check.
func Examine(f Facts) []Finding {
	if f.Node == nil {
		return []Finding{{Failure, "client", "the Nomad agent is no client, so it runs no tasks",
			"run this on a client node, or point NOMAD_ADDR at one"}}
	}
	return slices.Concat(client(f), driver(f), dangling(f), devices(f), drivers(f), killTimeout(f), telemetry(f),
		mps(f), reload(f), network(f), jobs(f), packing(f), cache(f))
}

// client looks at whether the servers place anything on the node.
func client(f Facts) []Finding {
	switch {
	case f.Node.Status != api.NodeStatusReady:
		return []Finding{{Failure, "client", "the servers call the node " + f.Node.Status +
			", so they place nothing on it", "see that the agent reaches the servers; its log says why it does not"}}
	case f.Node.SchedulingEligibility != api.NodeSchedulingEligible:
		return []Finding{{Failure, "client", "the node is " + f.Node.SchedulingEligibility +
			", so the servers place nothing on it", "end the maintenance, then  nomad node eligibility -enable -self"}}
	}
	return []Finding{{OK, "client", "the node is ready and eligible", ""}}
}

func driver(f Facts) []Finding {
	d := f.Node.Drivers["aliquot"]
	switch {
	case d == nil:
		return []Finding{{Failure, "driver", "the task driver aliquot is not loaded",
			fmt.Sprintf(
				`put aliquot-driver into %s and a plugin "aliquot-driver" block into the agent's configuration, `+
					`and restart the agent`, pluginDir(f))}}
	case !d.Detected:
		return []Finding{{Failure, "driver", "the task driver aliquot finds no container engine: " +
			d.HealthDescription,
			"install docker engine or start it; where its socket is elsewhere, " +
				"write endpoint into plugin \"aliquot-driver\" { config { } }"}}
	case !d.Healthy:
		return []Finding{{Failure, "driver", "the task driver aliquot is unhealthy: " + d.HealthDescription,
			"see the agent's log for aliquot-driver"}}
	}
	return []Finding{{OK, "driver", "the task driver aliquot is healthy", ""}}
}

// pluginDir names where the agent looks for plugins.
func pluginDir(f Facts) string {
	if dir, _ := f.Agent.Config["PluginDir"].(string); dir != "" {
		return dir
	}
	return "the agent's plugin_dir"
}

// shortKill is a cap on kill_timeout that answers of language models outlast.
const shortKill = time.Minute

// killTimeout looks at how long a replica that is scaled down, or a gateway that is
// stopped, may finish what it serves: Nomad silently caps what the job asks for.
func killTimeout(f Facts) []Finding {
	const fix = `client { max_kill_timeout = "10m" }, or longer than the longest request`
	value, _ := agent.Descend(f.Agent.Config, "Client", "MaxKillTimeout")
	text, _ := value.(string)
	most, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return []Finding{{Warning, "stopping", "the agent's max_kill_timeout cannot be read", fix}}
	case most < shortKill:
		return []Finding{{Warning,
			"stopping", fmt.Sprintf(
				"max_kill_timeout is %s: a replica that is scaled down loses the requests that take longer, "+
					"whatever its job's kill_timeout is", most), fix}}
	}
	return []Finding{{OK, "stopping",
		fmt.Sprintf("a stopped replica may take up to %s to finish its requests (max_kill_timeout)", most), ""}}
}

func telemetry(f Facts) []Finding {
	on, _ := agent.Descend(f.Agent.Config["Telemetry"], "PublishAllocationMetrics")
	if on == true {
		return []Finding{{OK, "telemetry", "allocation metrics are published", ""}}
	}
	return []Finding{{Warning,
		"telemetry", "Nomad publishes no allocation metrics, so nomad alloc status -stats shows no GPU use per task",
		"add  telemetry { publish_allocation_metrics = true  prometheus_metrics = true }  to the agent's " +
			"configuration"}}
}
