package aliquot

import (
	"os"
	"strings"

	"github.com/hashicorp/nomad/plugins/drivers"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"

	"aliquot.example/internal/agent"
	machine "aliquot.example/internal/host"
)

// The values of the attribute driver.aliquot.dangling_containers: whether the agent's docker driver and
// this driver leave each other's containers alone.
const (
	danglingSafe    = "safe"
	danglingUnsafe  = "unsafe"
	danglingUnknown = "unknown"
)

// guard adds to a fingerprint whether the agent's docker driver would remove this driver's containers.
// If it would, the driver is unhealthy, because a task that is placed here would be killed within
// minutes.
func (d *Driver) guard(set settings, fp *drivers.Fingerprint) *drivers.Fingerprint {
	if set.dangling == DanglingOff {
		return fp
	}
	state, why := d.stockDriver(set)
	fp.Attributes[ofOurs+".dangling_containers"] = pstructs.NewStringAttribute(state)
	if state == danglingUnsafe && set.dangling == DanglingEnforce && fp.Health == drivers.HealthStateHealthy {
		fp.Health = drivers.HealthStateUnhealthy
		fp.HealthDescription = why + ": " + agent.DanglingAdvice
	}
	return fp
}

// stockDriver reads the configuration of the agent that started this process,
// once per agent: the agent, too, reads it only when it starts.
func (d *Driver) stockDriver(set settings) (state, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	pid := os.Getppid()
	if pid == d.agent {
		return d.dangling, d.danglingWhy
	}
	config, err := agent.Read(machine.Running, pid)
	if err != nil && d.agent != 0 {
		// The agent that started this process has ended. The agent that uses it now is unknown,
		// so the earlier result is the best guess.
		return d.dangling, d.danglingWhy
	}
	d.agent = pid
	if err != nil {
		d.dangling, d.danglingWhy = danglingUnknown, err.Error()
	} else {
		d.dangling, d.danglingWhy = danglingOf(config, set)
	}
	switch d.dangling {
	case danglingUnsafe:
		d.log.Error(d.danglingWhy+": "+agent.DanglingAdvice, "check", set.dangling)
	case danglingUnknown:
		d.log.Warn("cannot tell whether the agent's own docker driver removes this driver's containers",
			"error", d.danglingWhy, "advice", agent.DanglingAdvice)
	}
	return d.dangling, d.danglingWhy
}

// danglingOf returns whether the agent's docker driver would remove this driver's containers, or this
// driver the docker driver's, and why.
func danglingOf(c agent.Config, set settings) (state, why string) {
	if c.Denies("docker") {
		return danglingSafe, ""
	}
	value, _ := agent.Descend(c.Docker, "endpoint")
	endpoint, _ := value.(string)
	if socket(endpoint) != socket(set.engine.endpoint) {
		return danglingSafe, ""
	}
	if set.removes {
		return danglingUnsafe,
			"this driver's gc { dangling_containers } is on and would remove " +
				"the containers of the agent's docker driver"
	}
	switch on, known := agent.Collects(c.Docker); {
	case !known:
		return danglingUnknown,
			"the docker plugin's gc { dangling_containers } in the agent's configuration " +
				"has an unknown form"
	case on:
		return danglingUnsafe,
			"the agent's own docker driver removes containers that it did not start (gc { dangling_containers } is " +
				"on), so it would kill every task of this driver within minutes"
	}
	return danglingSafe, ""
}

func socket(endpoint string) string {
	if endpoint == "" {
		endpoint = os.Getenv("DOCKER_HOST")
	}
	if endpoint == "" {
		return "unix:///var/run/docker.sock"
	}
	return strings.Replace(endpoint, "unix:///run/", "unix:///var/run/", 1)
}
