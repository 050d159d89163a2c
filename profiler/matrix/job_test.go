package matrix

import (
	"slices"
	"strings"
	"testing"

	nomad "github.com/hashicorp/nomad/api"
)

func pointer[T any](v T) *T { return &v }

// serving returns a job like jobs/vllm.nomad.hcl, with one group per vendor.
func serving() *nomad.Job {
	group := func(vendor string) *nomad.TaskGroup {
		return &nomad.TaskGroup{
			Name: pointer(vendor), Count: pointer(3), Scaling: &nomad.ScalingPolicy{}, Update: &nomad.UpdateStrategy{},
			Services: []*nomad.Service{{Name: "chat"}},
			Networks: []*nomad.NetworkResource{{DynamicPorts: []nomad.Port{{Label: "http"}}}},
			Tasks: []*nomad.Task{
				{Name: "helper", Resources: &nomad.Resources{}},
				{Name: "server", Services: []*nomad.Service{{Name: "chat"}}, Resources: &nomad.Resources{
					Devices: []*nomad.RequestedDevice{{Name: vendor + "/gpu", Count: pointer(uint64(10))}},
				}},
			},
		}
	}
	return &nomad.Job{
		ID: pointer("chat"), Name: pointer("chat"), Type: pointer("service"), Namespace: pointer("ml"),
		Update: &nomad.UpdateStrategy{}, TaskGroups: []*nomad.TaskGroup{group("nvidia"), group("amd")},
	}
}

func TestAServingJobBecomesOneThatMeasures(t *testing.T) {
	runner := Runner{Driver: "exec", Command: "/bin/aliquot", Port: "http", Args: []string{"-time=10s"}}
	job, err := Job(serving(), Cell{"mi300x", 5}, runner)
	if err != nil {
		t.Fatal(err)
	}
	if *job.ID != "chat-bench-mi300x-5" || *job.Type != "batch" || *job.Namespace != "ml" || job.Update != nil || len(job.TaskGroups) != 1 {
		t.Errorf("%+v", job)
	}
	g := job.TaskGroups[0]
	if *g.Name != "amd" || *g.Count != 1 || g.Scaling != nil || g.Services != nil || g.Update != nil || *g.RestartPolicy.Attempts != 0 || *g.ReschedulePolicy.Unlimited {
		t.Errorf("%+v", g)
	}
	server, bench := g.Tasks[1], g.Tasks[2]
	device := server.Resources.Devices[0]
	if server.Services != nil || !server.Lifecycle.Sidecar || *device.Count != 5 || device.Constraints[0].RTarget != "mi300x" {
		t.Errorf("%+v", server)
	}
	args := bench.Config["args"].([]string)
	if bench.Lifecycle != nil || bench.Driver != "exec" || !slices.Contains(args, "-url=http://${NOMAD_ADDR_http}") || args[len(args)-1] != "-time=10s" {
		t.Errorf("%+v", bench)
	}
	several := serving()
	several.TaskGroups[0].Tasks[1].Resources.Devices[0].Constraints = []*nomad.Constraint{nomad.NewConstraint(classAttribute, "regexp", "h100|l4")}
	if job, err = Job(several, Cell{"l4", 5}, runner); err != nil {
		t.Fatal(err)
	}
	if c := job.TaskGroups[0].Tasks[1].Resources.Devices[0].Constraints; len(c) != 2 || c[1].RTarget != "l4" || c[1].Operand != "=" {
		t.Errorf("a job for two classes may be measured on either: %+v", c)
	}
	if *serving().ID != "chat" {
		t.Error("the job that is given has changed its ID")
	}
}

func TestTheGroupOfAClassIsFound(t *testing.T) {
	one := serving()
	one.TaskGroups = one.TaskGroups[:1]
	named := serving()
	named.TaskGroups[1].Tasks[1].Resources.Devices[0] = &nomad.RequestedDevice{
		Name: "gpu", Constraints: []*nomad.Constraint{nomad.NewConstraint(classAttribute, "=", "h100")},
	}
	narrow := serving() // a job for one class, like jobs/scaling-one-class.nomad.hcl
	narrow.TaskGroups = narrow.TaskGroups[:1]
	narrow.TaskGroups[0].Tasks[1].Resources.Devices[0].Constraints = []*nomad.Constraint{nomad.NewConstraint(classAttribute, "=", "l4")}
	none := serving()
	none.TaskGroups[0].Tasks, none.TaskGroups[1].Tasks = nil, nil
	for _, w := range []struct {
		job         *nomad.Job
		class, want string
	}{
		{serving(), "h100", "nvidia"}, {serving(), "mi300x", "amd"}, {one, "unheard-of", "nvidia"}, {named, "h100", "amd"},
		{narrow, "l4", "nvidia"}, {narrow, "h100", "the groups of job chat ask for other classes by their constraints: l4"},
		{serving(), "unheard-of", "2 groups of job chat ask for a GPU"}, {none, "h100", "no task of job chat asks for a GPU"},
	} {
		g, _, err := groupOf(w.job, w.class)
		if err != nil && !strings.HasPrefix(err.Error(), w.want) || err == nil && *g.Name != w.want {
			t.Errorf("%s: %v, %v; want %s", w.class, g, err, w.want)
		}
	}
	two := serving()
	two.TaskGroups[0].Networks[0].ReservedPorts = []nomad.Port{{Label: "metrics"}}
	if _, err := Port(two, "h100"); err == nil || !strings.Contains(err.Error(), "-port") {
		t.Errorf("two ports: %v", err)
	}
	if port, err := Port(two, "mi300x"); port != "http" || err != nil {
		t.Errorf("one port: %q, %v", port, err)
	}
}
