package aliquot

import (
	"errors"

	"github.com/hashicorp/nomad/plugins/drivers"
)

// sandboxLabel is the label with the container whose network the tasks of an allocation join. The docker
// driver sets it on the networks that it creates.
const sandboxLabel = "docker_sandbox_container_id"

// Capabilities implements drivers.DriverPlugin. Only one driver can create the network of an
// allocation in bridge mode. Nomad refuses a group with two drivers that must create it, such as
// this driver and the docker driver. With join_networks, this driver leaves it to the docker
// driver, so a group may have tasks of both.
func (d *Driver) Capabilities() (*drivers.Capabilities, error) {
	ofDocker, err := d.Driver.Capabilities()
	if err != nil {
		return nil, err
	}
	own := *ofDocker // a copy, because the docker driver returns a global
	set, _ := d.settings()
	own.MustInitiateNetwork = own.MustInitiateNetwork && !set.joins
	return &own, nil
}

// checkNetwork fails for a task whose network does not belong to a container: if no driver must create
// the network, Nomad does, and the engine cannot put a container into that.
func (s settings) checkNetwork(cfg *drivers.TaskConfig, task TaskConfig) error {
	n := cfg.NetworkIsolation
	if !s.joins || task.NetworkMode != "" || n == nil || n.Path == "" || n.Labels[sandboxLabel] != "" {
		return nil
	}
	return errors.New(
		`the group's network was not made by the docker driver: with join_networks = true in plugin ` +
			`"aliquot-driver" a group in bridge mode needs a task of the docker driver, such as Consul's sidecar; ` +
			`add one, or set join_networks = false for groups with only aliquot tasks`)
}
