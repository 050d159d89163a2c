package target

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/sdk"
)

func configured(t *testing.T, address string) *Plugin {
	t.Helper()
	p := New(hclog.NewNullLogger())
	if err := p.SetConfig(map[string]string{"nomad_address": address, restartAgentAfter: "0"}); err != nil {
		t.Fatal(err)
	}
	return p
}

var llm = map[string]string{"Job": "llm", "Group": "server", "_nomad_autoscaler_grpc_timeout": "750ms"}

// The agent drops a policy if its target fails while the policy is loaded. It takes "connection
// refused" for the loss of Nomad and drops all policies.
func TestNomadAwayIsNotReadyAndNotAnError(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	status, err := configured(t, gone.URL).Status(llm)
	if err != nil || status == nil || status.Ready || strings.Contains(status.Meta[MetaProblem], "connection refused") || status.Meta[MetaProblem] == "" {
		t.Fatalf("got %+v, %v", status, err)
	}
}

// Status gives up on a Nomad that hangs, early enough for the answer to arrive. limit determines
// the time.
func TestAnAnswerComesWithinTheAgentsLimit(t *testing.T) {
	hanging := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer hanging.Close()
	status, err := configured(t, hanging.URL).Status(llm)
	if err != nil || status.Ready || !strings.Contains(status.Meta[MetaProblem], "deadline exceeded") {
		t.Errorf("got %+v, %v", status, err)
	}
	for granted, want := range map[string]time.Duration{"750ms": 650 * time.Millisecond, "100ms": 50 * time.Millisecond, "": 5 * time.Second} {
		if got := limit(map[string]string{"_nomad_autoscaler_grpc_timeout": granted}); got != want {
			t.Errorf("granted %q: got %v, want %v", granted, got, want)
		}
	}
}

func TestAJobThatIsNotThereIsNotReady(t *testing.T) {
	nomad := httptest.NewServer(http.NotFoundHandler())
	defer nomad.Close()
	status, err := configured(t, nomad.URL).Status(llm)
	if err != nil || status.Ready || !strings.Contains(status.Meta[MetaProblem], `job "llm" is not in namespace "default"`) {
		t.Errorf("got %+v, %v", status, err)
	}
}

func TestATargetWithoutJobSaysSo(t *testing.T) {
	p := configured(t, "http://127.0.0.1:1")
	if _, err := p.Status(map[string]string{"Job": "llm"}); err == nil || !strings.Contains(err.Error(), `Group is ""`) {
		t.Errorf("status: got %v", err)
	}
	if err := p.Scale(sdk.ScalingAction{Count: 1}, nil); err == nil || !strings.Contains(err.Error(), "inside a group") {
		t.Errorf("scale: got %v", err)
	}
}

func TestSettings(t *testing.T) {
	p := New(hclog.NewNullLogger())
	for _, c := range []map[string]string{{restartAgentAfter: "soon"}, {"restart": "1m"}} {
		if err := p.SetConfig(c); err == nil || !strings.Contains(err.Error(), "want") {
			t.Errorf("%v: got %v", c, err)
		}
	}
}

func TestStateOfAGroup(t *testing.T) {
	waiting := state{desired: 8, placed: 4, running: 4, blocked: "nvidia/gpu exhausted on 1 nodes, waiting for room", lastEvent: 7}
	got := waiting.answer()
	if !got.Ready || got.Count != 8 || got.Meta[MetaRunning] != "4" || got.Meta[MetaBlocked] == "" || got.Meta[sdk.TargetStatusMetaKeyLastEvent] != "7" {
		t.Errorf("exhausted: %+v", got)
	}
	deploying := state{desired: 2, placed: 2, running: 1, deployment: "deployment 12345678 is running"}
	if got := deploying.answer(); got.Ready || got.Count != 2 || got.Meta[MetaDeployment] == "" {
		t.Errorf("deploying: %+v", got)
	}
	if got := (state{stopped: true}).answer(); got.Ready {
		t.Errorf("stopped: %+v", got)
	}
}

func TestPoliciesOfThisTarget(t *testing.T) {
	for text, want := range map[string]bool{
		`[{"aliquot-target":[{}]}]`:                     true,
		`[{"nomad-target":[{}]},{"aliquot-target":[]}]`: true,
		`[{"nomad-target":[{}]}]`:                       false,
		`null`:                                          false,
		`"aliquot-target"`:                              false,
	} {
		var blocks any
		if err := json.Unmarshal([]byte(text), &blocks); err != nil {
			t.Fatal(err)
		}
		if got := targets(blocks); got != want {
			t.Errorf("%s: got %v", text, got)
		}
	}
}

func TestSilenceCountsFromTheLastQuestionBeyondTheInterval(t *testing.T) {
	p := New(hclog.NewNullLogger())
	if p.idleTime() != 0 {
		t.Error("silent before the first question")
	}
	p.recordRequest(llm)
	p.asked = p.asked.Add(-10 * time.Second)
	if got := p.idleTime().Round(time.Second); got != 8*time.Second {
		t.Errorf("got %v, want 8s: 10 s less two intervals of 1 s", got)
	}
}
