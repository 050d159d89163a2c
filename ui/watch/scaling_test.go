package watch

import (
	"encoding/json"
	"testing"
	"time"

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
