package aliquot

import (
	"strings"
	"testing"

	"github.com/hashicorp/nomad/drivers/docker"
	"github.com/hashicorp/nomad/plugins/drivers"
)

// The networks of allocations are this driver's to make, unless the operator leaves
// them to the docker driver, whose own answer stays as it is.
func TestWhoMakesNetworks(t *testing.T) {
	for _, joins := range []bool{false, true} {
		d := unstarted(t)
		d.set.joins = joins
		caps, err := d.Capabilities()
		if err != nil || caps.MustInitiateNetwork == joins || !caps.HasNetIsolationMode(drivers.NetIsolationModeGroup) || !caps.Exec {
			t.Errorf("join_networks = %v: %+v, %v", joins, caps, err)
		}
		stock := docker.NewDockerDriver(t.Context(), d.log).(*docker.Driver)
		if caps, err := stock.Capabilities(); err != nil || !caps.MustInitiateNetwork {
			t.Errorf("the docker driver's answer became %+v, %v", caps, err)
		}
	}
}

func TestNetworkThatNoContainerMadeIsNamed(t *testing.T) {
	s := confined(t, func(*limits) {})
	_, schema := schemas(t)
	for _, c := range []struct {
		joins   bool
		config  string
		labels  map[string]string
		refused bool
	}{
		{true, "", nil, true},
		{true, "", map[string]string{sandboxLabel: "c"}, false},
		{true, `, "network_mode": "host"`, nil, false},
		{false, "", nil, false},
	} {
		s.joins = c.joins
		job := newJob(t, schema, `{"image": "x:1"`+c.config+`}`, nil, nil)
		job.NetworkIsolation = &drivers.NetworkIsolationSpec{Mode: drivers.NetIsolationModeGroup, Path: "/var/run/netns/x", Labels: c.labels}
		_, _, err := s.startJob(t, job)
		if (err != nil) != c.refused || err != nil && !strings.Contains(err.Error(), "join_networks = true") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
