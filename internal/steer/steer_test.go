package steer

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/pack"
)

var classes = pack.Demand{
	{Ask: pack.Ask{CPU: 1000, MemoryMiB: 1000, Instances: 5, Requests: 1}, Weight: 1},
	{Ask: pack.Ask{CPU: 1000, MemoryMiB: 1000, Instances: 20, Requests: 1}, Weight: 1},
	{Ask: pack.Ask{CPU: 1000, MemoryMiB: 1000}, Weight: 1},
}.Classes()

// job returns a job with two groups, its own spread and affinities, and a task without a GPU
// beside one with a GPU.
func job() *api.Job {
	cpu, memory, five, twenty := 500, 300, uint64(5), uint64(20)
	resources := func(device string, count *uint64) *api.Resources {
		r := &api.Resources{CPU: &cpu, MemoryMB: &memory}
		if count != nil {
			r.Devices = []*api.RequestedDevice{{Name: device, Count: count, Affinities: []*api.Affinity{api.NewAffinity("${device.attr.class}", "=", "h100", 50)}}}
		}
		return r
	}
	chat := api.NewTaskGroup("chat", 1)
	chat.Spreads = []*api.Spread{api.NewSpread("${node.datacenter}", 50, nil)}
	chat.AddTask(api.NewTask("server", "aliquot").Require(resources("nvidia/gpu", &five)))
	chat.AddTask(api.NewTask("sidecar", "docker").Require(resources("", nil)))
	train := api.NewTaskGroup("train", 3)
	train.AddTask(api.NewTask("work", "aliquot").Require(resources("amd/gpu/mi300x-0", &twenty)))
	web := api.NewTaskGroup("web", 1)
	web.AddTask(api.NewTask("web", "docker").Require(resources("usb", &five)))
	return api.NewServiceJob("j", "j", "global", 50).AddTaskGroup(chat).AddTaskGroup(train).AddTaskGroup(web)
}

func asJSON(t *testing.T, j *api.Job) string {
	t.Helper()
	out, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestApplyingTwiceIsApplyingOnce(t *testing.T) {
	for _, p := range pack.Policies() {
		once, twice := job(), job()
		Apply(once, p, classes)
		Apply(twice, pack.Spread, classes)
		Apply(twice, p, classes)
		Apply(twice, p, classes)
		if asJSON(t, once) != asJSON(t, twice) {
			t.Errorf("%s: twice is not once: %s", p, asJSON(t, twice))
		}
		Apply(twice, pack.None, classes)
		if want := asJSON(t, job()); asJSON(t, twice) != want {
			t.Errorf("%s is not taken out again: %s", p, asJSON(t, twice))
		}
	}
}

// A policy adds only spreads and affinities of its attributes.
func TestNothingElseIsAdded(t *testing.T) {
	j := job()
	Apply(j, pack.Fragmentation, classes)
	for _, g := range j.TaskGroups {
		g.Spreads = slices.DeleteFunc(g.Spreads, func(s *api.Spread) bool { return strings.HasPrefix(s.Attribute, "${attr.unique.aliquot.waste_") })
		g.Affinities = slices.DeleteFunc(g.Affinities, func(a *api.Affinity) bool { return a.LTarget == "${attr.unique.aliquot.room}" })
		for _, task := range g.Tasks {
			for _, d := range task.Resources.Devices {
				d.Affinities = slices.DeleteFunc(d.Affinities, func(a *api.Affinity) bool { return a.LTarget == "${device.attr.index}" })
			}
		}
	}
	if got, want := asJSON(t, j), asJSON(t, job()); strings.ReplaceAll(got, "[]", "null") != strings.ReplaceAll(want, "[]", "null") {
		t.Errorf("left are\n%s\nwant\n%s", got, want)
	}
}

func TestWhatIsSaid(t *testing.T) {
	changes := Apply(job(), pack.Fragmentation, classes)
	if len(changes) != 3 {
		t.Fatalf("%d changes", len(changes))
	}
	chat, train, web := changes[0], changes[1], changes[2]
	if want := (pack.Ask{CPU: 1000, MemoryMiB: 600, Instances: 5, Requests: 1}); chat.Ask != want || chat.Class.Name != "5" {
		t.Errorf("chat asks %+v, class %s", chat.Ask, chat.Class.Name)
	}
	if train.Class.Name != "20" || web.Class.Name != "cpu" {
		t.Errorf("train is of class %s, web of %s", train.Class.Name, web.Class.Name)
	}
	has := func(c Change, part string) bool {
		return slices.ContainsFunc(c.Notes, func(n string) bool { return strings.Contains(n, part) })
	}
	if !has(chat, "its own spread") || !has(chat, "own affinities") || !has(train, "count = 3") || has(web, "affinities") {
		t.Errorf("notes: %q, %q, %q", chat.Notes, train.Notes, web.Notes)
	}
	if again := Apply(job(), pack.None, classes)[0]; !reflect.DeepEqual(again.Added, pack.Steering{}) {
		t.Errorf("none adds %+v", again.Added)
	}
}

// A note says that the driver starts no task with several device blocks for GPUs.
func TestSeveralDeviceBlocksAreNamed(t *testing.T) {
	for driver, want := range map[string]bool{"aliquot": true, "docker": false} {
		j := job()
		task := j.TaskGroups[0].Tasks[0]
		task.Driver = driver
		task.Resources.Devices = append(task.Resources.Devices, &api.RequestedDevice{Name: "nvidia/gpu"})
		notes := Apply(j, pack.BestFit, classes)[0].Notes
		if got := strings.Contains(strings.Join(notes, "\n"), "task server has 2 device blocks"); got != want {
			t.Errorf("%s: notes are %q", driver, notes)
		}
	}
}

func TestASystemJobHasNoOrder(t *testing.T) {
	j := job()
	kind := api.JobTypeSystem
	j.Type = &kind
	want := asJSON(t, j)
	if c := Apply(j, pack.Fragmentation, classes)[0]; len(c.Notes) == 0 || asJSON(t, j) != want {
		t.Errorf("a system job: %+v", c)
	}
}

// What a job omits counts with Nomad's defaults.
func TestDefaultsAreAskedFor(t *testing.T) {
	cores := 2
	for _, c := range []struct {
		asked *api.Resources
		want  pack.Ask
	}{
		{nil, pack.Ask{CPU: 100, MemoryMiB: 300}},
		{&api.Resources{}, pack.Ask{CPU: 100, MemoryMiB: 300}},
		{&api.Resources{Cores: &cores}, pack.Ask{CPU: 2 * coreMHz, MemoryMiB: 300}},
	} {
		if got := AskOf(&api.TaskGroup{Tasks: []*api.Task{{Resources: c.asked}}}); got != c.want {
			t.Errorf("%+v asks %+v, want %+v", c.asked, got, c.want)
		}
	}
}
