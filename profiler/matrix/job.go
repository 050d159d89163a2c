// Package matrix measures a model server on several kinds of replica, each in an allocation
// of Nomad of its own, and compares them.
package matrix

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/gpu"
)

// Cell is one kind of replica: a hardware class and how many slices of one GPU, or how
// many whole GPUs.
type Cell struct {
	Class  string
	Slices int
}

func (c Cell) String() string { return fmt.Sprintf("%s x %d", c.Class, c.Slices) }

// Runner is how a node runs the benchmark beside the server.
type Runner struct {
	Driver  string // exec or raw_exec
	Command string // path of the aliquot program on the nodes
	// Args are the benchmark's arguments but the server's address and the files.
	Args []string
	// Port is the label of the port at which the server listens.
	Port string
}

const (
	// bencher is the name of the task that measures.
	bencher = "aliquot-bench"
	// reportFile is where it writes, in the allocation's folder.
	reportFile = "alloc/bench.json"
)

// Job makes of a job that serves one that measures a single replica of it: a batch job
// that runs the server beside the benchmark and ends with it. It registers no service, so
// that nobody sends requests to it, and follows no scaling.
func Job(job *nomad.Job, c Cell, r Runner) (*nomad.Job, error) {
	group, server, err := groupOf(job, c.Class)
	if err != nil {
		return nil, err
	}
	if err := resize(server, c); err != nil {
		return nil, fmt.Errorf("group %s, task %s: %w", *group.Name, server.Name, err)
	}
	id, kind, none, one := fmt.Sprintf("%s-bench-%s-%d", *job.ID, c.Class, c.Slices), "batch", 0, 1
	out := *job
	out.ID, out.Name, out.Type = &id, &id, &kind
	out.Update, out.Periodic, out.ParameterizedJob, out.Multiregion, out.Migrate = nil, nil, nil, nil, nil
	out.Reschedule, out.TaskGroups = nil, []*nomad.TaskGroup{group}
	never, fail := false, "fail"
	group.Count, group.Scaling, group.Update, group.Migrate = &one, nil, nil, nil
	group.ReschedulePolicy = &nomad.ReschedulePolicy{Attempts: &none, Unlimited: &never}
	group.RestartPolicy = &nomad.RestartPolicy{Attempts: &none, Mode: &fail}
	group.Services, server.Services, server.RestartPolicy = nil, nil, nil
	server.Lifecycle = &nomad.TaskLifecycle{Hook: nomad.TaskLifecycleHookPrestart, Sidecar: true}
	group.Tasks = slices.DeleteFunc(slices.Clone(group.Tasks), func(t *nomad.Task) bool { return t.Name == bencher })
	group.Tasks = append(group.Tasks, bench(r))
	return &out, nil
}

// bench is the task that measures.
func bench(r Runner) *nomad.Task {
	cpu, memory := 500, 256
	args := append([]string{
		"bench", "-url=http://${NOMAD_ADDR_" + r.Port + "}", "-json=${NOMAD_ALLOC_DIR}/bench.json",
	}, r.Args...)
	return &nomad.Task{
		Name: bencher, Driver: r.Driver,
		Config:    map[string]any{"command": r.Command, "args": args},
		Resources: &nomad.Resources{CPU: &cpu, MemoryMB: &memory},
	}
}

// groupOf finds the group that serves on a class, and its task with the GPU: the only one
// that asks for a GPU, or of several the one that asks for the class, else for its vendor. A
// group that asks for another class serves on that alone.
func groupOf(job *nomad.Job, class string) (*nomad.TaskGroup, *nomad.Task, error) {
	type found struct {
		group *nomad.TaskGroup
		task  *nomad.Task
	}
	var all, asks, vendors []found
	var others []string
	for _, g := range job.TaskGroups {
		for _, t := range g.Tasks {
			d := deviceOf(t)
			if d == nil {
				continue
			}
			if other := wants(d); other != "" && other != class {
				others = append(others, other)
				continue
			}
			f := found{g, t}
			all = append(all, f)
			if slices.ContainsFunc(d.Constraints, func(c *nomad.Constraint) bool { return c.RTarget == class }) {
				asks = append(asks, f)
			}
			if v := vendorOf(class); v != "" && strings.HasPrefix(d.Name, v+"/") {
				vendors = append(vendors, f)
			}
		}
	}
	for _, some := range [][]found{asks, vendors, all} {
		if len(some) == 1 {
			return some[0].group, some[0].task, nil
		}
	}
	if len(all) == 0 && len(others) > 0 {
		return nil, nil, fmt.Errorf("the groups of job %s ask for other classes by their constraints: %s",
			*job.ID, strings.Join(others, ", "))
	}
	if len(all) == 0 {
		return nil, nil, fmt.Errorf("no task of job %s asks for a GPU", *job.ID)
	}
	return nil, nil, fmt.Errorf("%d groups of job %s ask for a GPU, and none of them alone for class %s",
		len(all), *job.ID, class)
}

// deviceOf is a task's request for GPUs, nil where it has none.
func deviceOf(t *nomad.Task) *nomad.RequestedDevice {
	if t.Resources == nil {
		return nil
	}
	for _, d := range t.Resources.Devices {
		if parts := strings.Split(d.Name, "/"); parts[0] == "gpu" || len(parts) > 1 && parts[1] == "gpu" {
			return d
		}
	}
	return nil
}

// SlicesOf is how many slices the first task of a job with a GPU asks for, and in how many its
// constraint wants a GPU to be cut; 0 where the job does not say.
func SlicesOf(job *nomad.Job) (count, total int) {
	for _, g := range job.TaskGroups {
		for _, t := range g.Tasks {
			d := deviceOf(t)
			if d == nil || d.Count == nil {
				continue
			}
			for _, c := range d.Constraints {
				if c.LTarget == "${device.attr.slices}" {
					total, _ = strconv.Atoi(c.RTarget)
				}
			}
			return int(min(*d.Count, math.MaxInt32)), total
		}
	}
	return 0, 0
}

// vendorOf is the vendor of a class in the hardware table, "" where it is not there.
func vendorOf(class string) string {
	for _, h := range gpu.Table() {
		if h.Class == class {
			return string(h.Vendor)
		}
	}
	return ""
}

const classAttribute = "${device.attr.class}"

// wants is the class that a request's constraint asks for, "" where none asks for a single one.
func wants(d *nomad.RequestedDevice) string {
	for _, c := range d.Constraints {
		if c.LTarget == classAttribute && slices.Contains([]string{"", "=", "==", "is"}, c.Operand) {
			return c.RTarget
		}
	}
	return ""
}

// resize makes a task ask for so many slices of a class.
func resize(t *nomad.Task, c Cell) error {
	if c.Slices < 1 {
		return fmt.Errorf("%d slices: want at least 1", c.Slices)
	}
	d, count := deviceOf(t), uint64(c.Slices)
	d.Count = &count
	if wants(d) != c.Class { // a regular expression may let others in
		d.Constraints = append(d.Constraints, nomad.NewConstraint(classAttribute, "=", c.Class))
	}
	return nil
}

// Port is the label of the only port of the group that serves on a class.
func Port(job *nomad.Job, class string) (string, error) {
	g, _, err := groupOf(job, class)
	if err != nil {
		return "", err
	}
	var labels []string
	for _, n := range g.Networks {
		for _, p := range slices.Concat(n.DynamicPorts, n.ReservedPorts) {
			labels = append(labels, p.Label)
		}
	}
	if len(labels) != 1 {
		return "", fmt.Errorf("group %s has the ports %q: say by -port at which the server listens", *g.Name, labels)
	}
	return labels[0], nil
}
