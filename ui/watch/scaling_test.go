package watch

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/query"
)

// The policy is as Nomad 1.11 returns it.
const policy = `{"Enabled":true,"ID":"91c68df9","Max":4,"Min":0,"Policy":{"target":[{"aliquot-target":[{}]}],
"check":[{"demand":[{"query":"load service=chat classes='h100 slots=4'","query_window":"15m","source":"aliquot-apm",
"strategy":[{"aliquot-strategy":[{"class":"t4","classes":"h100 slots=4 cost=6","sleep":"","down_delay":"12s"}]}]}]}]},
"Target":{"Namespace":"default","Job":"chat","Group":"t4"},"Type":"horizontal"}`

func TestPolicyIsRead(t *testing.T) {
	var p nomad.ScalingPolicy
	if err := json.Unmarshal([]byte(policy), &p); err != nil {
		t.Fatal(err)
	}
	got := policyOf(&p)
	if got == nil || got.Service != "chat" || got.Group != "t4" || got.Query.Metric != query.Load || got.Window != 15*time.Minute || got.Max != 4 || got.Settings["class"] != "t4" || got.Settings["down_delay"] != "12s" {
		t.Fatalf("%+v", got)
	}
	if _, ok := got.Settings["sleep"]; ok {
		t.Error("a setting that is empty is not one")
	}
}

func TestOtherPoliciesAreLeftOut(t *testing.T) {
	for _, text := range []string{
		`{}`, `{"Policy":{"check":7}}`, `{"Policy":{"check":[{"x":[{"query":"service=chat","strategy":[{"target-value":[{}]}]}]}]}}`,
		`{"Policy":{"check":[{"x":[{"query":9,"strategy":[{"aliquot-strategy":[{}]}]}]}]}}`,
	} {
		var p nomad.ScalingPolicy
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			t.Fatal(err)
		}
		if got := policyOf(&p); got != nil {
			t.Errorf("%s is read as %+v", text, got)
		}
	}
}

// While Nomad or Consul does not answer, a policy stays as it was read last: a decision by
// defaults would be shown as that of the autoscaler. One that is gone goes.
func TestAPolicyStaysWhileNobodyAnswers(t *testing.T) {
	var fails atomic.Int64 // the status of what follows the list
	one := fmt.Sprintf(`{"at":%q,"class":"t4","seconds":40}`, time.Now().UTC().Format(time.RFC3339))
	starts := `{"version":1,"samples":[` + one + strings.Repeat(","+one, 9) + `]}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := int(fails.Load())
		switch {
		case r.URL.Path == "/v1/scaling/policies":
			fmt.Fprint(w, `[`+policy+`]`)
		case status != 0:
			http.Error(w, "fails", status)
		case strings.HasPrefix(r.URL.Path, "/v1/scaling/policy/"):
			fmt.Fprint(w, policy)
		case strings.HasSuffix(r.URL.Path, "aliquot/coldstart/chat"):
			fmt.Fprintf(w, `[{"Key":"x","Value":%q}]`, base64.StdEncoding.EncodeToString([]byte(starts)))
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	n, err := nomad.NewClient(&nomad.Config{Address: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	c, err := consul.NewClient(&consul.Config{Address: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	w := New(Options{Nomad: n, Consul: c})
	w.readPolicies(t.Context())
	if len(w.policies) != 1 || w.policies[0].ColdStart != 40*time.Second {
		t.Fatalf("%+v", w.policies)
	}
	fails.Store(http.StatusInternalServerError)
	w.readPolicies(t.Context())
	if len(w.policies) != 1 || w.policies[0].Service != "chat" || w.policies[0].ColdStart != 40*time.Second {
		t.Errorf("nobody answers: %+v", w.policies)
	}
	fails.Store(http.StatusNotFound)
	if w.readPolicies(t.Context()); len(w.policies) != 0 {
		t.Errorf("a policy that is gone: %+v", w.policies)
	}
}
