package matrix

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"
)

// Run removes what an earlier benchmark left, but not a job of the same name that still runs. It
// removes its job when ctx ends, and names the job in the error if it cannot.
func TestABenchmarkTakesNoOthersJob(t *testing.T) {
	for name, c := range map[string]struct {
		there, want string
		fails       bool
		calls       []string
	}{
		"none":       {"", "context canceled", false, []string{"register 0", "remove"}},
		"left over":  {"dead", "context canceled", false, []string{"remove", "register 0", "remove"}},
		"running":    {"running", "the job chat-bench-l4-5 already exists", false, nil},
		"waiting":    {"pending", "nomad job stop -purge chat-bench-l4-5", false, nil},
		"not remove": {"", "cannot remove the job chat-bench-l4-5 from Nomad", true, []string{"register 0", "remove"}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var calls []string
			mux := http.NewServeMux()
			mux.HandleFunc("GET /v1/job/{id}", func(w http.ResponseWriter, _ *http.Request) {
				if c.there == "" {
					http.Error(w, "job not found", http.StatusNotFound)
					return
				}
				_ = json.NewEncoder(w).Encode(nomad.Job{Status: &c.there})
			})
			mux.HandleFunc("PUT /v1/jobs", func(w http.ResponseWriter, r *http.Request) {
				var asked nomad.JobRegisterRequest
				_ = json.NewDecoder(r.Body).Decode(&asked)
				if !asked.EnforceIndex || asked.JobModifyIndex != 0 {
					http.Error(w, "it would replace another", http.StatusBadRequest)
					return
				}
				calls = append(calls, "register 0")
				_ = json.NewEncoder(w).Encode(nomad.JobRegisterResponse{})
			})
			mux.HandleFunc("DELETE /v1/job/{id}", func(w http.ResponseWriter, r *http.Request) {
				calls = append(calls, "remove")
				if c.fails || r.FormValue("purge") != "true" {
					http.Error(w, "no leader", http.StatusInternalServerError)
					return
				}
				_ = json.NewEncoder(w).Encode(nomad.JobDeregisterResponse{})
			})
			mux.HandleFunc("GET /v1/job/{id}/allocations", func(w http.ResponseWriter, r *http.Request) {
				if r.FormValue("all") == "true" {
					t.Error("allocations of earlier jobs of the name count")
				}
				cancel()
				_ = json.NewEncoder(w).Encode([]nomad.AllocationListStub{})
			})
			server := httptest.NewServer(mux)
			defer server.Close()
			client, err := nomad.NewClient(&nomad.Config{Address: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			id := "chat-bench-l4-5"
			_, _, err = Nomad{Client: client, Room: time.Hour}.Run(ctx, &nomad.Job{ID: &id})
			if err == nil || !strings.Contains(err.Error(), c.want) || !slices.Equal(calls, c.calls) {
				t.Errorf("%v, calls %q; want %q, %q", err, calls, c.want, c.calls)
			}
		})
	}
}

// A leader election in Nomad does not end a measurement.
func TestAnAnswerThatFailsEndsNoMeasurement(t *testing.T) {
	asked := 0
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/job/{id}/allocations", func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked == 1 {
			http.Error(w, "No cluster leader", http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode([]nomad.AllocationListStub{{ID: "a"}})
	})
	mux.HandleFunc("GET /v1/allocation/a", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(nomad.Allocation{
			ID: "a", ClientStatus: nomad.AllocClientStatusComplete,
			TaskStates: map[string]*nomad.TaskState{bencher: {State: "dead"}},
		})
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	client, err := nomad.NewClient(&nomad.Config{Address: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	alloc, err := Nomad{Client: client, Room: time.Minute}.await(t.Context(), "job")
	if err != nil || alloc.ID != "a" || asked != 2 {
		t.Errorf("%+v, %v after %d questions", alloc, err, asked)
	}
}
