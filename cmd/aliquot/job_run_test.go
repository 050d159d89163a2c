package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/cli"
	nomad "github.com/hashicorp/nomad/api"
)

// A job goes to the namespace and the region that it names, else to those of the
// environment, as with nomad job run and nomad job plan.
func TestAJobGoesWhereTheEnvironmentSays(t *testing.T) {
	for _, c := range []struct{ file, namespace, region string }{
		{`job "chat" {}`, "prod", "eu"},
		{`job "chat" { namespace = "lab" }`, "lab", "eu"},
		{`job "chat" { region = "us" }`, "prod", "us"},
		{`{"Job": {"ID": "chat"}}`, "prod", "eu"},
		{`{"Job": {"ID": "chat", "Namespace": "lab", "Region": "us"}}`, "lab", "us"},
	} {
		var writes []string
		server := httptest.NewServer(nomadThatParses(&writes))
		t.Setenv("NOMAD_ADDR", server.URL)
		t.Setenv("NOMAD_NAMESPACE", "prod")
		t.Setenv("NOMAD_REGION", "eu")
		path := filepath.Join(t.TempDir(), "chat.nomad.hcl")
		if err := os.WriteFile(path, []byte(c.file), 0o644); err != nil {
			t.Fatal(err)
		}
		ui := cli.NewMockUi()
		ran, planned := jobRunCommand{ui}.Run([]string{"-pack=none", path}), jobPlanCommand{ui}.Run([]string{"-pack=none", path})
		server.Close()
		want := c.namespace + " " + c.region
		if ran != 0 || planned != 0 || len(writes) != 2 || writes[0] != want || writes[1] != want {
			t.Errorf("%s: exit codes %d and %d, sent to %q, want %q; %s", c.file, ran, planned, writes, want, ui.ErrorWriter)
		}
	}
}

// nomadThatParses answers as Nomad's HTTP API does, and notes the namespace and the
// region that each write names. It knows the three job files of the test.
func nomadThatParses(writes *[]string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/jobs/parse", func(w http.ResponseWriter, r *http.Request) {
		var asked nomad.JobsParseRequest
		_ = json.NewDecoder(r.Body).Decode(&asked)
		id, lab, us := "chat", "lab", "us"
		job := &nomad.Job{ID: &id, Name: &id}
		switch asked.JobHCL {
		case `job "chat" { namespace = "lab" }`:
			job.Namespace = &lab
		case `job "chat" { region = "us" }`:
			job.Region = &us
		}
		if asked.Canonicalize {
			job.Canonicalize()
		}
		_ = json.NewEncoder(w).Encode(job)
	})
	write := func(answer any) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			*writes = append(*writes, r.FormValue("namespace")+" "+r.FormValue("region"))
			_ = json.NewEncoder(w).Encode(answer)
		}
	}
	mux.HandleFunc("/v1/jobs", write(nomad.JobRegisterResponse{}))
	mux.HandleFunc("/v1/job/chat/plan", write(nomad.JobPlanResponse{}))
	return mux
}
