package e2e

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"aliquot.example/e2e/cluster"
	"aliquot.example/e2e/rack"
	"aliquot.example/internal/doctor"
)

// findings runs `aliquot doctor` against the cluster's client agent.
func findings(ctx context.Context, t *testing.T, c *cluster.Cluster) []doctor.Finding {
	t.Helper()
	node, err := c.Node()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, c.Program("aliquot"), "doctor", "-json")
	cmd.Env = append(os.Environ(), "NOMAD_ADDR=http://"+node.HTTPAddr)
	out, _ := cmd.Output() // its exit status reports failed checks
	var list []doctor.Finding
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatalf("doctor printed %q: %v", out, err)
	}
	return list
}

// found checks that a check has a finding with a level and a text.
func found(t *testing.T, list []doctor.Finding, check string, level doctor.Level, part string) {
	t.Helper()
	for _, f := range list {
		if f.Check == check && f.Level == level && strings.Contains(f.What+" "+f.Fix, part) {
			return
		}
	}
	t.Errorf("no %s of %s with %q among %+v", level, check, part, list)
}

// TestDoctor examines a working node whose configuration has two wrong gpu blocks: one requests
// more than the hardware supports, the other offers nothing.
func TestDoctor(t *testing.T) {
	ctx, c := start(t, cluster.Options{
		Rack: "h100", Device: "gpu \"*\" {\n slices = 100\n}\n",
		AMD: &cluster.AMD{GPUs: rack.AMDHost(rack.MI210, 1, "", ""), Device: "gpu \"*\" {\n mode = \"off\"\n}\n"},
	})
	list := findings(ctx, t, c)
	for _, check := range []string{"client", "driver", "dangling", "stopping", "telemetry"} {
		found(t, list, check, doctor.OK, "")
	}
	found(t, list, "devices", doctor.Warning, "60 slices instead of 100")
	found(t, list, "devices", doctor.Warning, `aliquot-device-amd is configured with mode "off" for all`)
	node, err := c.Node()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Nomad.Nodes().ToggleEligibility(node.ID, false, nil); err != nil {
		t.Fatal(err)
	}
	found(t, findings(ctx, t, c), "client", doctor.Failure, "ineligible")
}
