package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hashicorp/cli"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/rightsize"
	"aliquot.example/profiler/sizing"
)

// right-size -run submits a new size and nothing else: where the job in Nomad differs from the
// file, which a forgotten variable makes, nothing is submitted and no value is shown.
func TestRightSizeSubmitsANewSizeAlone(t *testing.T) {
	edited := func(name string) []*nomad.FieldDiff {
		return []*nomad.FieldDiff{{Type: "None", Name: "Driver"}, {Type: "Edited", Name: name, Old: "hidden", New: "hidden"}}
	}
	group := func(g nomad.TaskGroupDiff) *nomad.JobDiff {
		g.Type, g.Name = "Edited", "nvidia"
		return &nomad.JobDiff{Type: "Edited", TaskGroups: []*nomad.TaskGroupDiff{&g}}
	}
	task := func(objects ...*nomad.ObjectDiff) *nomad.JobDiff {
		return group(nomad.TaskGroupDiff{Tasks: []*nomad.TaskDiff{{Type: "Edited", Name: "server", Objects: objects}}})
	}
	const sized = `variable "slices" {}` + "\n" + `variable "slices_total" {}`
	for name, c := range map[string]struct {
		file   string
		diff   *nomad.JobDiff
		absent bool
		want   string // of the error, "" where the job is submitted
	}{
		"the same":        {sized, &nomad.JobDiff{Type: "None"}, false, ""},
		"no diff":         {sized, nil, false, ""},
		"another count":   {sized, group(nomad.TaskGroupDiff{Fields: edited("Count")}), false, ""},
		"other packing":   {sized, task(&nomad.ObjectDiff{Type: "Edited", Name: "Resources", Objects: []*nomad.ObjectDiff{{Type: "Added", Name: "Affinity", Fields: edited("Weight")}}}), false, ""},
		"not in Nomad":    {sized, group(nomad.TaskGroupDiff{Fields: edited("Other")}), true, ""},
		"another model":   {sized, task(&nomad.ObjectDiff{Type: "Edited", Name: "Config", Fields: edited("args[0]")}), false, "differs from - with these variables in group nvidia, task server, config args[0]:"},
		"another device":  {sized, task(&nomad.ObjectDiff{Type: "Edited", Name: "Device", Fields: edited("Count")}), false, "in group nvidia, task server, device Count:"},
		"another group":   {sized, &nomad.JobDiff{TaskGroups: []*nomad.TaskGroupDiff{{Type: "Deleted", Name: "amd"}}}, false, "in group amd:"},
		"another field":   {sized, &nomad.JobDiff{Fields: edited("Priority")}, false, "in Priority:"},
		"no such devices": {`variable "slices" {} # fixed`, nil, false, `the variable "slices" does not set the count`},
		"no variable":     {`variable "size" {}`, nil, false, "has no variable to set l4, 5 of 20 slices"},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := &sizedCluster{diff: c.diff, absent: c.absent}
			server := httptest.NewServer(cluster.handler())
			defer server.Close()
			t.Setenv("NOMAD_ADDR", server.URL)
			client, err := nomad.NewClient(nomad.DefaultConfig())
			if err != nil {
				t.Fatal(err)
			}
			ui := cli.NewMockUi()
			r := rightSize{ui: ui, file: jobFile{path: "-", text: c.file}, nomad: client, job: gpuJob(10)}
			choice := rightsize.Choice{Option: rightsize.Option{Class: "l4", Slices: 5, Total: 20}, Replicas: 3}
			answer := sizing.Answer{
				Choices: []rightsize.Choice{choice}, Running: []sizing.Running{{Class: "l4", Slices: "10of20", Replicas: 1}},
			}
			err = r.change(t.Context(), answer)
			said := ui.ErrorWriter.String()
			switch {
			case c.want == "" && (err != nil || len(cluster.registered) != 1 || cluster.registered[0] != 5):
				t.Errorf("submitted %v, %v", cluster.registered, err)
			case c.want == "" && !strings.Contains(said, "3 replicas of this size are needed, and 1 serve now"):
				t.Errorf("it says %q", said)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hidden")):
				t.Errorf("%v, want %q", err, c.want)
			case c.want != "" && len(cluster.registered) > 0:
				t.Errorf("submitted %v", cluster.registered)
			}
			if c.want == "" && c.diff != nil && !c.absent && cluster.planned != 10 {
				t.Errorf("what runs was compared with %d slices", cluster.planned)
			}
		})
	}
}

// sizedCluster answers as Nomad's API does, for a job whose variable "slices" sets its device.
type sizedCluster struct {
	diff       *nomad.JobDiff
	absent     bool
	planned    uint64
	registered []uint64
}

func gpuJob(count uint64) *nomad.Job {
	id, group := "chat", "nvidia"
	d := &nomad.RequestedDevice{Name: "nvidia/gpu", Count: &count, Constraints: []*nomad.Constraint{
		nomad.NewConstraint("${device.attr.slices}", "=", "20"),
	}}
	return &nomad.Job{ID: &id, Name: &id, Meta: map[string]string{packMeta: "none"}, TaskGroups: []*nomad.TaskGroup{{
		Name: &group, Tasks: []*nomad.Task{{Name: "server", Resources: &nomad.Resources{Devices: []*nomad.RequestedDevice{d}}}},
	}}}
}

func (c *sizedCluster) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/jobs/parse", func(w http.ResponseWriter, r *http.Request) {
		var asked nomad.JobsParseRequest
		_ = json.NewDecoder(r.Body).Decode(&asked)
		count := uint64(1)
		if !strings.Contains(asked.JobHCL, "fixed") {
			for line := range strings.Lines(asked.Variables) {
				_, _ = fmt.Sscanf(line, "slices = %d", &count)
			}
		}
		_ = json.NewEncoder(w).Encode(gpuJob(count))
	})
	mux.HandleFunc("GET /v1/job/chat", func(w http.ResponseWriter, _ *http.Request) {
		if c.absent {
			http.Error(w, "job not found", http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(gpuJob(10))
	})
	mux.HandleFunc("PUT /v1/job/chat/plan", func(w http.ResponseWriter, r *http.Request) {
		var asked nomad.JobPlanRequest
		_ = json.NewDecoder(r.Body).Decode(&asked)
		c.planned = *asked.Job.TaskGroups[0].Tasks[0].Resources.Devices[0].Count
		_ = json.NewEncoder(w).Encode(nomad.JobPlanResponse{Diff: c.diff})
	})
	mux.HandleFunc("PUT /v1/jobs", func(w http.ResponseWriter, r *http.Request) {
		var asked nomad.JobRegisterRequest
		_ = json.NewDecoder(r.Body).Decode(&asked)
		if !asked.PreserveCounts {
			http.Error(w, "counts are not kept", http.StatusBadRequest)
			return
		}
		c.registered = append(c.registered, *asked.Job.TaskGroups[0].Tasks[0].Resources.Devices[0].Count)
		_ = json.NewEncoder(w).Encode(nomad.JobRegisterResponse{EvalID: "e"})
	})
	return mux
}

// A class that is misspelt in -class or -cost is named.
func TestRightSizeNamesAClassThatIsNotKnown(t *testing.T) {
	ui := cli.NewMockUi()
	r := rightSize{ui: ui, class: "L4", question: sizing.Question{Service: "chat", Cost: map[string]float64{"l40": 1}}}
	r.print(sizing.Answer{Choices: []rightsize.Choice{{Option: rightsize.Option{Class: "l4", Slices: 5, Total: 20}}}})
	for _, want := range []string{"-cost names l40, which has no figures", "-class names L4, which has no figures", "no measured size"} {
		if said := ui.ErrorWriter.String(); !strings.Contains(said, want) {
			t.Errorf("it says %q, want %q", said, want)
		}
	}
}

// A job file from standard input is read once, for -run too, and a job in JSON has no variables.
func TestAJobFileThatWasReadIsKept(t *testing.T) {
	f := jobFile{path: "/nowhere", text: "{}"}
	if text, err := f.read(); err != nil || text != "{}" {
		t.Errorf("%q, %v", text, err)
	}
	f.vars = list{"slices=5"}
	if _, err := (f.parse(nil, `{"ID": "chat"}`)); err == nil || !strings.Contains(err.Error(), "a job in JSON has no variables") {
		t.Errorf("%v", err)
	}
}
