// Package doctor finds what keeps a node from serving GPUs well, and how to fix it. Its findings
// depend only on Facts, which the caller collects.
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

// Level is the level of a finding.
type Level string

// The levels. A failure keeps tasks from running or endangers them. A warning has some cost. OK shows
// that a check found no problem.
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

// Facts are the input of Examine.
type Facts struct {
	// Agent is the response of /v1/agent/self of the node's Nomad agent.
	Agent *api.AgentSelf
	// Node is the node of that agent, nil if the agent is not a client.
	Node *api.Node
	// DefaultMPSDirectory reports whether /tmp/nvidia-mps exists on this host.
	DefaultMPSDirectory bool
	// MPSDaemons are the pipe directories of the MPS control daemons on this host, by PID. Those of
	// the device plugin are below its run_dir.
	MPSDaemons map[int]string
	// Unnamed are the GPU device nodes that systemd cannot name, on a host that runs systemd.
	Unnamed []string
	// Asks are the requests for GPUs of all jobs that could be read. JobsProblem is the error for
	// the others.
	Asks        []Ask
	JobsProblem string
	// Bridged are the groups in bridge mode with a task of the aliquot driver.
	Bridged []Bridged
	// Servers are the versions of Nomad's servers, empty if they cannot be read.
	Servers []string
	// Cache is the status of the node's model cache, nil if none answers. CacheProblem is why a
	// cache whose socket exists does not answer, "" otherwise.
	Cache        *cacheapi.Status
	CacheProblem string
	// Host describes the GPU drivers of the host, nil if the node is another host.
	Host *kernel.Facts
	// Preemption reports whether preemption is on for service or batch jobs.
	Preemption bool
}

// Examine runs all checks and returns their findings.
func Examine(f Facts) []Finding {
	if f.Node == nil {
		return []Finding{{Failure, "client", "the Nomad agent is not a client, so it runs no tasks",
			"run this on a client node, or point NOMAD_ADDR at one"}}
	}
	return slices.Concat(client(f), driver(f), dangling(f), devices(f), drivers(f), killTimeout(f), telemetry(f),
		mps(f), reload(f), network(f), jobs(f), packing(f), cache(f))
}

// client checks whether the servers place tasks on the node.
func client(f Facts) []Finding {
	switch {
	case f.Node.Status != api.NodeStatusReady:
		return []Finding{{Failure, "client", "the node is " + f.Node.Status +
			", so the servers place nothing on it",
			"make sure that the agent can reach the servers; its log says why it cannot"}}
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
			"install docker engine or start it; if its socket is not the default, " +
				"set endpoint in plugin \"aliquot-driver\" { config { } }"}}
	case !d.Healthy:
		return []Finding{{Failure, "driver", "the task driver aliquot is unhealthy: " + d.HealthDescription,
			"see the agent's log for aliquot-driver"}}
	}
	return []Finding{{OK, "driver", "the task driver aliquot is healthy", ""}}
}

// pluginDir returns the directory of the agent's plugins.
func pluginDir(f Facts) string {
	if dir, _ := f.Agent.Config["PluginDir"].(string); dir != "" {
		return dir
	}
	return "the agent's plugin_dir"
}

// shortKill is a limit for max_kill_timeout: answers of language models can take longer.
const shortKill = time.Minute

// killTimeout checks how long a stopped replica or gateway may take to finish its requests. Nomad
// silently limits a job's kill_timeout to the agent's max_kill_timeout.
func killTimeout(f Facts) []Finding {
	const fix = `set  client { max_kill_timeout = "10m" }, or longer than the longest request`
	value, _ := agent.Descend(f.Agent.Config, "Client", "MaxKillTimeout")
	text, _ := value.(string)
	most, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return []Finding{{Warning, "stopping", "the agent's max_kill_timeout cannot be read", fix}}
	case most < shortKill:
		return []Finding{{Warning,
			"stopping", fmt.Sprintf(
				"max_kill_timeout is %s: a stopped replica loses requests that take longer, "+
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
