package aliquot

import (
	"errors"

	"github.com/hashicorp/nomad/plugins/drivers"
)

// sandboxLabel names the container whose network the tasks of an allocation join. The
// docker driver sets it on the networks that it makes.
const sandboxLabel = "docker_sandbox_container_id"

// Capabilities implements drivers.DriverPlugin. Nomad lets one driver alone make the
// network of an allocation in bridge mode, and refuses a group in which two want to, as
// this driver and the docker driver do. Where the operator leaves it to the latter, a
// group may have tasks of both.
func (d *Driver) Capabilities() (*drivers.Capabilities, error) {
	ofDocker, err := d.Driver.Capabilities()
	if err != nil {
		return nil, err
	}
	own := *ofDocker // the docker driver's is one for the whole process
	set, _ := d.settings()
	own.MustInitiateNetwork = own.MustInitiateNetwork && !set.joins
	return &own, nil
}

// checkNetwork fails for a task whose network no container made: Nomad makes one where
// no driver wants to, and the engine cannot put a container into it.
func (s settings) checkNetwork(cfg *drivers.TaskConfig, task TaskConfig) error {
	n := cfg.NetworkIsolation
	if !s.joins || task.NetworkMode != "" || n == nil || n.Path == "" || n.Labels[sandboxLabel] != "" {
		return nil
	}
	return errors.New(
		`the group's network was not made by the docker driver: with join_networks = true in plugin ` +
			`"aliquot-driver" a group in bridge mode needs a task of the docker driver, such as Consul's sidecar; ` +
			`without it aliquot tasks go alone`)
}
