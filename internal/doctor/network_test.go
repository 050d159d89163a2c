package doctor

import (
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
)

func TestGroupsWhoseNetworkNobodyMakes(t *testing.T) {
	job := func(mode string, drivers ...string) *api.Job {
		id, group := "mesh", "g"
		g := &api.TaskGroup{Name: &group, Networks: []*api.NetworkResource{{Mode: mode}}}
		for _, d := range drivers {
			g.Tasks = append(g.Tasks, &api.Task{Driver: d})
		}
		return &api.Job{ID: &id, TaskGroups: []*api.TaskGroup{g}}
	}
	join := `{"Plugins":[{"Name":"aliquot-driver","Config":{"join_networks":JOIN}}]}`
	for _, c := range []struct {
		name, join string
		job        *api.Job
		want       string
	}{
		{"both drivers", "false", job("bridge", "aliquot", "docker"), "mesh/g has tasks of the drivers aliquot and docker"},
		{"both drivers in a network of CNI", "false", job("cni/x", "docker", "aliquot"), "only one driver can do so"},
		{"both drivers, joined", "true", job("bridge", "aliquot", "docker"), ""},
		{"both drivers, joined, as text", `"true"`, job("bridge", "aliquot", "docker"), ""},
		{"aliquot alone, joined", "true", job("bridge", "aliquot"), "no driver creates its network"},
		{"aliquot alone", "false", job("bridge", "aliquot"), ""},
		{"docker alone", "false", job("bridge", "docker"), ""},
		{"on the host's network", "false", job("host", "aliquot", "docker"), ""},
	} {
		f := facts(t, strings.Replace(join, "JOIN", c.join, 1), "aliquot")
		f.Bridged = BridgedOf(c.job)
		got := find(Examine(f), "network")
		if (got.What == "") != (c.want == "") || !strings.Contains(got.What, c.want) || c.want != "" && (got.Level != Warning || got.Fix == "") {
			t.Errorf("%s: %+v, want %q", c.name, got, c.want)
		}
	}
}
