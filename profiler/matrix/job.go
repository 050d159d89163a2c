// Package matrix measures a model server on several kinds of replica, each in its own Nomad
// allocation, and compares them.
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

// Cell is one kind of replica: a hardware class and a number of slices of one GPU, or of whole
// GPUs.
type Cell struct {
	Class  string
	Slices int
}

func (c Cell) String() string { return fmt.Sprintf("%s x %d", c.Class, c.Slices) }

// Runner is how a node runs the benchmark next to the server.
type Runner struct {
	Driver  string // exec or raw_exec
	Command string // path of the aliquot program on the nodes
	// Args are the benchmark's arguments except the server's address and the report's file.
	Args []string
	// Port is the label of the port that the server listens on.
	Port string
}

const (
	// bencher is the name of the benchmark task.
	bencher = "aliquot-bench"
	// reportFile is where it writes its report, in the allocation's directory.
	reportFile = "alloc/bench.json"
)

// Job turns a job that serves into one that measures a single replica of it: a batch job that runs
// the server next to the benchmark and ends with it. It registers no service, so that nobody else
// sends requests to it, and has no scaling.
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

// bench returns the benchmark task.
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

// groupOf returns the group that serves on a class, and its task with a GPU. If several groups
// request a GPU, it prefers the one that requests the class, then the one that requests its vendor.
// It ignores a group that requests another class.
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

// deviceOf returns a task's request for GPUs, or nil.
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

// SlicesOf returns how many slices the first GPU task of a job requests, and into how many slices
// its constraint requires a GPU to be cut. Each is 0 if the job does not say.
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

// vendorOf returns the vendor of a class in the hardware table, "" if the class is not in it.
func vendorOf(class string) string {
	for _, h := range gpu.Table() {
		if h.Class == class {
			return string(h.Vendor)
		}
	}
	return ""
}

const classAttribute = "${device.attr.class}"

// wants returns the class that a request's constraints require, "" if they require no single class.
func wants(d *nomad.RequestedDevice) string {
	for _, c := range d.Constraints {
		if c.LTarget == classAttribute && slices.Contains([]string{"", "=", "==", "is"}, c.Operand) {
			return c.RTarget
		}
	}
	return ""
}

// resize makes a task request the slices and the class of a cell.
func resize(t *nomad.Task, c Cell) error {
	if c.Slices < 1 {
		return fmt.Errorf("%d slices: want at least 1", c.Slices)
	}
	d, count := deviceOf(t), uint64(c.Slices)
	d.Count = &count
	if wants(d) != c.Class { // for example, a regular expression may also match other classes
		d.Constraints = append(d.Constraints, nomad.NewConstraint(classAttribute, "=", c.Class))
	}
	return nil
}

// Port returns the label of the only port of the group that serves on a class.
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
		return "", fmt.Errorf("group %s has the ports %q: set -port to the label of the server's port", *g.Name, labels)
	}
	return labels[0], nil
}
