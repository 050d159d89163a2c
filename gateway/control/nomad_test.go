package control

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/gateway/config"
)

// oneJob answers as Nomad does for one job with one group: a request to scale that names
// another index than the job's is refused.
type oneJob struct {
	mu    sync.Mutex
	count int
	index uint64
	read  func() // is called when the job was read
}

func (j *oneJob) set(count int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.count, j.index = count, j.index+1
}

func (j *oneJob) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method + " " + r.URL.Path {
	case "GET /v1/job/llama":
		j.mu.Lock()
		fmt.Fprintf(w, `{"ID": "llama", "JobModifyIndex": %d, "TaskGroups": [{"Name": "server", "Count": %d}]}`, j.index, j.count)
		j.mu.Unlock()
		j.read()
	case "PUT /v1/job/llama/scale":
		var asked nomad.ScalingRequest
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		j.mu.Lock()
		same := asked.JobModifyIndex == 0 || asked.JobModifyIndex == j.index
		j.mu.Unlock()
		if !same {
			http.Error(w, "Enforcing job modify index", http.StatusInternalServerError)
			return
		}
		j.set(int(*asked.Count))
		fmt.Fprint(w, "{}")
	default:
		http.NotFound(w, r)
	}
}

func TestALargerCountIsNeverUndone(t *testing.T) {
	for name, d := range map[string]struct {
		count, meanwhile, want int
		fails                  bool
	}{
		"nobody else":                     {0, 0, 1, false},
		"somebody scaled before":          {3, 0, 3, false},
		"somebody scales at that moment":  {0, 5, 5, true},
		"somebody scales a running group": {3, 5, 5, false},
	} {
		job := &oneJob{count: d.count, index: 7}
		job.read = func() {
			if d.meanwhile > 0 {
				job.set(d.meanwhile)
			}
		}
		server := httptest.NewServer(job)
		client, err := nomad.NewClient(&nomad.Config{Address: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		s := &Scaler{Client: client, Config: &config.Nomad{}}
		if err := s.Scale(t.Context(), "llama", "server", 1, "requests wait"); (err != nil) != d.fails || job.count != d.want {
			t.Errorf("%s: count %d, %v; want %d", name, job.count, err, d.want)
		}
		server.Close()
	}
}
