package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/agent"
)

// Bridged is a group in bridge mode with a task of the aliquot driver.
type Bridged struct {
	// Group is "job/group", or "namespace:job/group" outside the default namespace.
	Group string
	// Docker reports whether the group also has a task of the docker driver.
	Docker bool
}

// BridgedOf lists the bridged groups of a registered job, which includes the sidecars that Nomad has
// added.
func BridgedOf(job *api.Job) []Bridged {
	var out []Bridged
	for _, g := range job.TaskGroups {
		bridge := slices.ContainsFunc(g.Networks, func(n *api.NetworkResource) bool {
			return n.Mode == "bridge" || strings.HasPrefix(n.Mode, "cni/")
		})
		of := func(driver string) bool {
			return slices.ContainsFunc(g.Tasks, func(t *api.Task) bool { return t.Driver == driver })
		}
		if bridge && of("aliquot") {
			out = append(out, Bridged{place(job) + "/" + text(g.Name), of("docker")})
		}
	}
	return out
}

// place returns the ID of a job, with its namespace unless that is the default.
func place(job *api.Job) string {
	if ns := text(job.Namespace); ns != "" && ns != api.DefaultNamespace {
		return ns + ":" + text(job.ID)
	}
	return text(job.ID)
}

// network finds groups whose network this node cannot create. Only one driver of a group may create
// it, and Nomad reports this error only in the allocation's ClientDescription.
func network(f Facts) []Finding {
	joins, _ := agent.Descend(plugin(f.Agent.Config, "aliquot-driver"), "join_networks")
	joined := fmt.Sprint(joins) == "true"
	var out []Finding
	for _, b := range f.Bridged {
		switch {
		case b.Docker && !joined:
			out = append(out, Finding{Warning,
				"network", b.Group +
					" has tasks of the drivers aliquot and docker in one network: " +
					"its allocations fail here with \"only one driver can do so\", without a task event",
				`write  sidecar_task { driver = "aliquot" … }  for Consul's sidecar, as jobs/mesh.nomad.hcl does, ` +
					`and driver = "aliquot" for other tasks; or join_networks = true in plugin "aliquot-driver"`})
		case !b.Docker && joined:
			out = append(out, Finding{Warning,
				"network", b.Group +
					" has no task of the docker driver: with join_networks = true no driver creates its network here",
				`add a task of the docker driver, or set join_networks = false in plugin "aliquot-driver"`})
		}
	}
	return out
}
