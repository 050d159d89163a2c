package jobs

import (
	"testing"

	"github.com/hashicorp/hcl/v2/hclsimple"
	"github.com/hashicorp/nomad-autoscaler/sdk"

	"aliquot.example/internal/query"
)

// The policy for nodes is one that the agent reads, and its target is of the nodes that its
// query is about.
func TestPolicyForNodes(t *testing.T) {
	var file sdk.FileDecodeScalingPolicies
	if err := hclsimple.DecodeFile("autoscaler-nodes.hcl", nil, &file); err != nil {
		t.Fatal(err)
	}
	for _, p := range file.ScalingPolicies {
		translated := p.Translate()
		if err := translated.Validate(); err != nil {
			t.Error(err)
		}
		target := translated.Target.Config
		for _, check := range translated.Checks {
			q, err := query.Parse(check.Query)
			if err != nil {
				t.Errorf("%s: %v", check.Query, err)
			}
			if q.Metric != query.Nodes || q.Group.Pool != target[sdk.TargetConfigKeyNodePool] || check.Strategy.Name != "pass-through" {
				t.Errorf("%+v by %s for %v", q, check.Strategy.Name, target)
			}
		}
		if s := target[sdk.TargetConfigNodeSelectorStrategy]; s != sdk.TargetNodeSelectorStrategyEmptyIgnoreSystemJobs {
			t.Errorf("nodes are selected by %q", s)
		}
	}
	if len(file.ScalingPolicies) != 1 {
		t.Errorf("%d policies", len(file.ScalingPolicies))
	}
}
