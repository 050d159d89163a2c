package steer

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"pgregory.net/rapid"

	"aliquot.example/internal/pack"
	"aliquot.example/internal/share"
)

var anyAffinity = rapid.Custom(func(t *rapid.T) *api.Affinity {
	targets := []string{"${node.datacenter}", "${device.attr.class}", "${device.attr.index}", "${attr.cpu.arch}", "${meta.rack}"}
	a := &api.Affinity{LTarget: rapid.SampledFrom(targets).Draw(t, "attribute"), Operand: rapid.SampledFrom([]string{"=", "<", "regexp"}).Draw(t, "operand"), RTarget: rapid.SampledFrom([]string{"1", "2", "h100"}).Draw(t, "value")}
	if rapid.Bool().Draw(t, "has a weight") {
		a.Weight = weight(rapid.SampledFrom([]int{-100, 50, 100}).Draw(t, "weight"))
	}
	return a
})

var anyDevice = rapid.Custom(func(t *rapid.T) *api.RequestedDevice {
	d := &api.RequestedDevice{Name: rapid.SampledFrom([]string{"gpu", "nvidia/gpu", "amd/gpu/mi300x-0", "usb", "vendor/fpga", "", "/", "gpu/gpu/gpu/gpu"}).Draw(t, "device")}
	if rapid.Bool().Draw(t, "has a count") {
		n := rapid.SampledFrom([]uint64{0, 1, 4, 20, 1 << 62}).Draw(t, "count")
		d.Count = &n
	}
	for range rapid.IntRange(0, 2).Draw(t, "affinities") {
		d.Affinities = append(d.Affinities, anyAffinity.Draw(t, "affinity"))
	}
	for range rapid.IntRange(0, 2).Draw(t, "constraints") {
		d.Constraints = append(d.Constraints, api.NewConstraint(rapid.SampledFrom([]string{"${device.attr.slices}", "${device.attr.memory}", "${device.ids}"}).Draw(t, "constrained"), rapid.SampledFrom([]string{"=", "", ">=", "set_contains_any"}).Draw(t, "by"), rapid.SampledFrom([]string{"1", "20", "-1", "40 GiB", "${device.attr.unique.link_0}"}).Draw(t, "to")))
	}
	return d
})

// anyJob draws a job as Nomad's parser or a JSON file returns it. Each optional part may be
// missing.
var anyJob = rapid.Custom(func(t *rapid.T) *api.Job {
	job := &api.Job{}
	if kind := rapid.SampledFrom([]string{"", "service", "batch", "system", "sysbatch", "other"}).Draw(t, "type"); kind != "" {
		job.Type = &kind
	}
	for range rapid.IntRange(0, 1).Draw(t, "affinities of the job") {
		job.Affinities = append(job.Affinities, anyAffinity.Draw(t, "of the job"))
	}
	for range rapid.IntRange(0, 3).Draw(t, "groups") {
		group := &api.TaskGroup{}
		if rapid.Bool().Draw(t, "has a name") {
			name := "group"
			group.Name = &name
		}
		if rapid.Bool().Draw(t, "has a count") {
			n := rapid.IntRange(0, 5).Draw(t, "count")
			group.Count = &n
		}
		for range rapid.IntRange(0, 2).Draw(t, "spreads") {
			group.Spreads = append(group.Spreads, api.NewSpread(rapid.SampledFrom([]string{"${node.datacenter}", "${meta.rack}"}).Draw(t, "spread"), 50, nil))
		}
		for range rapid.IntRange(0, 3).Draw(t, "tasks") {
			task := &api.Task{Name: "task"}
			if rapid.IntRange(0, 4).Draw(t, "has resources") > 0 {
				task.Resources = &api.Resources{Devices: rapid.SliceOfN(anyDevice, 0, 3).Draw(t, "devices")}
			}
			task.Affinities = rapid.SliceOfN(anyAffinity, 0, 1).Draw(t, "of the task")
			group.Tasks = append(group.Tasks, task)
		}
		job.TaskGroups = append(job.TaskGroups, group)
	}
	return job
})

func again(t *rapid.T, job *api.Job) *api.Job {
	text, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	out := &api.Job{}
	if err := json.Unmarshal(text, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// plainJSON returns a job as JSON in which an empty list and no list are the same.
func plainJSON(t *rapid.T, job *api.Job) string {
	text, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), "[]", "null")
}

// For any job: applying policies one after the other equals applying the last one,
// none restores the job, and groups that run on every node stay unchanged.
func TestAnyJobIsSteeredOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		job := anyJob.Draw(t, "job")
		before := plainJSON(t, job)
		policies := rapid.SliceOfN(rapid.SampledFrom(pack.Policies()), 1, 4).Draw(t, "policies")
		joints := rapid.SliceOfN(rapid.SampledFrom(append(share.Joints(), NoJoint)), 1, 3).Draw(t, "joints")
		once, many := again(t, job), again(t, job)
		Apply(once, policies[len(policies)-1], classes)
		Join(once, joints[len(joints)-1])
		for _, p := range policies {
			Apply(many, p, classes)
		}
		for _, j := range joints {
			Join(many, j)
			many = again(t, many) // as `aliquot job inspect -json` hands it on
		}
		if a, b := plainJSON(t, once), plainJSON(t, many); a != b {
			t.Fatalf("%v, %v one after the other:\n%s\nthe last alone:\n%s", policies, joints, b, a)
		}
		Apply(many, pack.None, classes)
		Join(many, NoJoint)
		if after := plainJSON(t, many); after != before {
			t.Fatalf("taken out again:\n%s\nwas:\n%s", after, before)
		}
		if kind := text(job.Type); kind == api.JobTypeSystem || kind == api.JobTypeSysbatch {
			for _, p := range policies {
				Apply(many, p, classes)
			}
			if after := plainJSON(t, many); after != before {
				t.Fatalf("a %s job is changed: %s", kind, after)
			}
		}
	})
}

// A user's own affinities for GPUs with a low index stay, unless they are all those that a
// policy adds.
func TestOwnAffinitiesForAnIndexStay(t *testing.T) {
	j := job()
	own := affinities(pack.LowIndexFirst())[:2]
	d := j.TaskGroups[0].Tasks[0].Resources.Devices[0]
	d.Affinities = append(d.Affinities, own...)
	want := len(d.Affinities)
	if Apply(j, pack.None, classes); len(d.Affinities) != want {
		t.Errorf("of %d affinities %d are left", want, len(d.Affinities))
	}
}

// Requests for several whole GPUs land inside an island. Other requests and earlier
// constraints stay unchanged.
func TestJoin(t *testing.T) {
	device := func(name string, count uint64, slices string) *api.RequestedDevice {
		d := &api.RequestedDevice{Name: name, Count: &count, Constraints: []*api.Constraint{api.NewConstraint("${device.attr.memory}", ">=", "40 GiB")}}
		if slices != "" {
			d.Constraints = append(d.Constraints, api.NewConstraint("${device.attr.slices}", "=", slices))
		}
		return d
	}
	task := api.NewTask("server", "aliquot").Require(&api.Resources{Devices: []*api.RequestedDevice{
		device("nvidia/gpu", 4, ""), device("nvidia/gpu", 2, "1"), device("nvidia/gpu", 1, "1"), device("nvidia/gpu", 6, "20"), device("nvidia/gpu", 17, "1"), device("fpga", 4, ""),
	}})
	j := api.NewServiceJob("j", "j", "global", 50).AddTaskGroup(api.NewTaskGroup("g", 1).AddTask(task))
	joined := Join(j, share.ByLink)
	var notes []string
	for _, one := range joined {
		target := "none"
		if one.Constraint != nil {
			target = one.Constraint.LTarget
		}
		notes = append(notes, target)
	}
	// A note says that a count which may mean slices now means whole GPUs.
	for i, unclear := range []bool{true, false} {
		if got := strings.Contains(joined[i].Note, "it now requests 4 whole GPUs"); got != unclear {
			t.Errorf("device %d: %q", i, joined[i].Note)
		}
	}
	want := []string{"${device.attr.unique.link_for_4}", "${device.attr.unique.link_for_2}", "none", "none", "none"}
	if !slices.Equal(notes, want) {
		t.Errorf("joined by %v, want %v", notes, want)
	}
	for i, d := range task.Resources.Devices {
		if ours := len(slices.DeleteFunc(slices.Clone(d.Constraints), func(c *api.Constraint) bool { return !ofIsland(c) })); ours != len(slices.DeleteFunc([]string{append(want, "none")[i]}, func(s string) bool { return s == "none" })) {
			t.Errorf("device %d has %d constraints for an island", i, ours)
		}
	}
	if _, err := ParseJoint("nvlink"); err == nil || !strings.Contains(err.Error(), "link, switch, numa") {
		t.Errorf("nvlink: %v", err)
	}
}
