package doctor

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
)

func facts(t *testing.T, config string, drivers ...string) Facts {
	t.Helper()
	var c map[string]any
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		t.Fatal(err)
	}
	f := Facts{Agent: &api.AgentSelf{Config: c}, Node: &api.Node{Drivers: map[string]*api.DriverInfo{}, NodeResources: &api.NodeResources{}}}
	for _, d := range drivers {
		f.Node.Drivers[d] = &api.DriverInfo{Detected: true, Healthy: true}
	}
	return f
}

func find(list []Finding, check string) Finding {
	for _, f := range list {
		if f.Check == check {
			return f
		}
	}
	return Finding{}
}

func TestDanglingContainers(t *testing.T) {
	off := `{"Plugins":[{"Name":"docker","Config":{"gc":[{"dangling_containers":[{"enabled":false}]}]}}]}`
	odd := `{"Plugins":[{"Name":"docker","Config":{"gc":[{"dangling_containers":[{"enabled":"no"}]}]}}]}`
	for _, c := range []struct {
		name, config string
		drivers      []string
		want         Level
	}{
		{"both drivers, defaults", `{}`, []string{"docker", "aliquot"}, Failure},
		{"both drivers, other plugin configured", `{"Plugins":[{"Name":"exec","Config":null}]}`, []string{"docker", "aliquot"}, Failure},
		{"both drivers, collection off", off, []string{"docker", "aliquot"}, OK},
		{"both drivers, unreadable", odd, []string{"docker", "aliquot"}, Warning},
		{"aliquot alone", `{}`, []string{"aliquot"}, OK},
	} {
		if got := find(Examine(facts(t, c.config, c.drivers...)), "dangling"); got.Level != c.want || got.Level != OK && got.Fix == "" {
			t.Errorf("%s: got %+v, want %s", c.name, got, c.want)
		}
	}
}

func TestShortKillTimeoutLosesRequests(t *testing.T) {
	for config, want := range map[string]Level{
		`{"Client":{"MaxKillTimeout":"30s"}}`: Warning, `{"Client":{"MaxKillTimeout":"5m"}}`: OK, `{}`: Warning,
	} {
		if got := find(Examine(facts(t, config, "aliquot")), "stopping"); got.Level != want {
			t.Errorf("%s: got %+v, want %s", config, got, want)
		}
	}
}

func TestUnhealthyDevicesNameTheReasonOnce(t *testing.T) {
	f := facts(t, `{}`, "aliquot")
	bad := &api.NodeDevice{HealthDescription: "XID 79"}
	f.Node.NodeResources.Devices = []*api.NodeDeviceResource{{Vendor: "nvidia", Type: "gpu", Name: "h100-0", Instances: []*api.NodeDevice{bad, bad}}}
	got := find(Examine(f), "devices")
	if got.Level != Failure || strings.Count(got.What, "XID 79") != 1 {
		t.Fatalf("got %+v", got)
	}
}

func TestEveryFindingThatIsNotOKHasAFix(t *testing.T) {
	f := facts(t, `{"Telemetry":{"PublishAllocationMetrics":false}}`)
	f.DefaultMPSDirectory = true
	all := append(Examine(f), Examine(Facts{Agent: &api.AgentSelf{}})...)
	if len(all) < 5 {
		t.Fatalf("only %d findings: %+v", len(all), all)
	}
	for _, x := range all {
		if (x.Level == OK) != (x.Fix == "") {
			t.Errorf("%+v", x)
		}
	}
}
