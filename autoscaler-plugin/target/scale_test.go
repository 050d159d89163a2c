package target

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/hashicorp/nomad-autoscaler/sdk"
)

// refusing is a stub of Nomad that refuses every count with the same text.
type refusing struct {
	deploying bool // a deployment is active
	overtaken int  // number of submissions that find the job changed
	submitted int
	index     int
}

func (r *refusing) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	answer := func(v any) { json.NewEncoder(w).Encode(v) }
	switch {
	case q.Method == http.MethodGet && q.URL.Path == "/v1/job/llm/scale":
		answer(map[string]any{"JobModifyIndex": r.index, "JobCreateIndex": 1, "TaskGroups": map[string]any{"server": map[string]any{"Desired": 1, "Placed": 1}}})
	case q.URL.Path == "/v1/job/llm/deployment" && r.deploying:
		answer(map[string]any{"ID": "12345678-1234", "Status": "running", "JobCreateIndex": 1})
	case q.URL.Path == "/v1/job/llm/deployment":
		answer(nil)
	case q.URL.Path == "/v1/job/llm":
		answer(map[string]any{"ID": "llm", "JobModifyIndex": r.index, "TaskGroups": []any{map[string]any{"Name": "server", "Count": 1}}})
	case r.submitted < r.overtaken:
		r.submitted++
		r.index++
		http.Error(w, "words of any release", http.StatusInternalServerError)
	case r.deploying || r.overtaken == 0:
		r.submitted++
		http.Error(w, "words of any release", http.StatusBadRequest)
	default:
		r.submitted++
		answer(map[string]any{"EvalID": "1"})
	}
}

// The cause of a refusal follows from the job's state, whatever Nomad's text is.
func TestARefusalIsUnderstoodByTheState(t *testing.T) {
	scale := func(r *refusing) error {
		server := httptest.NewServer(r)
		defer server.Close()
		return configured(t, server.URL).Scale(sdk.ScalingAction{Count: 2}, llm)
	}
	var nothing *sdk.TargetScalingNoOpError
	deploying := &refusing{deploying: true}
	if err := scale(deploying); !errors.As(err, &nothing) || deploying.submitted != 1 {
		t.Errorf("in a deployment: %v after %d submissions, want that there is nothing to do", err, deploying.submitted)
	}
	overtaken := &refusing{overtaken: 2}
	if err := scale(overtaken); err != nil || overtaken.submitted != 3 {
		t.Errorf("overtaken twice: %v after %d submissions, want the third to succeed", err, overtaken.submitted)
	}
	for always, want := range map[int]int{0: 1, 99: attempts} {
		r := &refusing{overtaken: always}
		if err := scale(r); err == nil || errors.As(err, &nothing) || r.submitted != want {
			t.Errorf("%s: %v after %d submissions, want an error after %d", fmt.Sprint(always), err, r.submitted, want)
		}
	}
}
