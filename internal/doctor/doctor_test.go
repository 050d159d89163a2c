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
	f := Facts{Agent: &api.AgentSelf{Config: c}, Node: &api.Node{Status: "ready", SchedulingEligibility: "eligible", Attributes: map[string]string{}, Drivers: map[string]*api.DriverInfo{}, NodeResources: &api.NodeResources{}}}
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
	dry := strings.Replace(off, `"enabled":false`, `"dry_run":true`, 1)
	odd := `{"Plugins":[{"Name":"docker","Config":{"gc":[{"dangling_containers":[{"enabled":"no"}]}]}}]}`
	for _, c := range []struct {
		name, config string
		drivers      []string
		want         Level
	}{
		{"both drivers, defaults", `{}`, []string{"docker", "aliquot"}, Failure},
		{"both drivers, other plugin configured", `{"Plugins":[{"Name":"exec","Config":null}]}`, []string{"docker", "aliquot"}, Failure},
		{"both drivers, collection off", off, []string{"docker", "aliquot"}, OK},
		{"both drivers, collection only told", dry, []string{"docker", "aliquot"}, OK},
		{"both drivers, dry_run off", strings.Replace(dry, "true", "false", 1), []string{"docker", "aliquot"}, Failure},
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

// The driver sees what the configuration does not tell, such as another engine.
func TestTheDriversOwnLookComesFirst(t *testing.T) {
	off := `{"Plugins":[{"Name":"docker","Config":{"gc":[{"dangling_containers":[{"enabled":false}]}]}}]}`
	for attribute, want := range map[string]map[string]Level{
		"safe": {`{}`: OK, off: OK}, "unsafe": {`{}`: Failure, off: Failure}, "unknown": {`{}`: Failure, off: OK}, "": {`{}`: Failure, off: OK},
	} {
		for config, level := range want {
			f := facts(t, config, "docker", "aliquot")
			f.Node.Attributes["driver.aliquot.dangling_containers"] = attribute
			if got := find(Examine(f), "dangling"); got.Level != level {
				t.Errorf("driver says %q, configuration %s: %+v, want %s", attribute, config, got, level)
			}
		}
	}
}

func TestNodeThatTakesNothing(t *testing.T) {
	for _, c := range []struct{ status, eligibility, part string }{
		{"ready", "eligible", ""}, {"down", "eligible", "down"}, {"ready", "ineligible", "ineligible"},
	} {
		f := facts(t, `{}`, "aliquot")
		f.Node.Status, f.Node.SchedulingEligibility = c.status, c.eligibility
		got := find(Examine(f), "client")
		if (got.Level == OK) != (c.part == "") || !strings.Contains(got.What, c.part) {
			t.Errorf("%+v: %+v", c, got)
		}
	}
}

func TestDriverWithoutAnEngineIsNotCalledMissing(t *testing.T) {
	f := facts(t, `{"PluginDir":"/opt/nomad/plugins"}`)
	if got := find(Examine(f), "driver"); got.Level != Failure || !strings.Contains(got.Fix, "/opt/nomad/plugins") {
		t.Errorf("no driver: %+v", got)
	}
	f.Node.Drivers["aliquot"] = &api.DriverInfo{HealthDescription: "Failed to connect to docker daemon"}
	if got := find(Examine(f), "driver"); got.Level != Failure || !strings.Contains(got.What, "Failed to connect") || strings.Contains(got.Fix, "plugin_dir") {
		t.Errorf("no engine: %+v", got)
	}
}

// What a user has who has no slices, or not those that were asked for.
func TestWhyThereAreNoSlices(t *testing.T) {
	twenty := int64(20)
	attributes := map[string]*api.Attribute{"slices": {IntVal: &twenty}}
	foreign := &api.NodeDeviceResource{Vendor: "nvidia", Type: "gpu", Name: "Tesla T4", Instances: []*api.NodeDevice{{ID: "a", Healthy: true}}}
	nvidia := &api.NodeDeviceResource{Vendor: "nvidia", Type: "gpu", Name: "t4-0", Instances: []*api.NodeDevice{{ID: "a", Healthy: true}, {ID: "b", Healthy: true}}, Attributes: attributes}
	clamp := "48 slices instead of 100: MPS serves at most 48 clients before CUDA 13.1"
	clamped := &api.NodeDeviceResource{Vendor: "nvidia", Type: "gpu", Name: "t4-0", Instances: nvidia.Instances, Attributes: map[string]*api.Attribute{"slices": {IntVal: &twenty}, "slices_clamped": {StringVal: &clamp}}}
	sick := &api.NodeDeviceResource{Vendor: "nvidia", Type: "gpu", Name: "t4-0", Instances: []*api.NodeDevice{{ID: "a", Healthy: true}, {ID: "b", HealthDescription: "XID 79"}}, Attributes: attributes}
	plugins := func(text string) string { return `{"PluginDir":"/plugins","Plugins":[` + text + `]}` }
	for _, c := range []struct {
		name, config, loaded string
		groups               []*api.NodeDeviceResource
		want                 map[Level]string // part of the finding of a level
	}{
		{"slices", plugins(`{"Name":"aliquot-device-nvidia","Config":null}`), "nvidia", []*api.NodeDeviceResource{nvidia}, map[Level]string{OK: "2 healthy"}},
		{"nothing at all", `{}`, "", nil, map[Level]string{Failure: "the node offers no GPU"}},
		{"no plugin", plugins(""), "nvidia", nil, map[Level]string{Failure: "put aliquot-device-nvidia into /plugins"}},
		{"no kernel driver", plugins(`{"Name":"aliquot-device-amd","Config":{"gpu":[{"*":[{"slices":"4"}]}]}}`), "", nil, map[Level]string{Failure: "AMD's kernel driver is not loaded"}},
		{"all off", plugins(`{"Name":"aliquot-device-nvidia","Config":{"gpu":[{"*":[{"mode":"off"}]},{"h100":[{"mode":"off"}]}]}}`), "nvidia", nil, map[Level]string{Warning: `mode "off" for all`}},
		{"not all off", plugins(`{"Name":"aliquot-device-nvidia","Config":{"gpu":[{"*":[{"mode":"off"}]},{"h100":[{"slices":"4"}]}]}}`), "nvidia", nil, map[Level]string{Failure: "kernel driver is loaded"}},
		{"one off", plugins(`{"Name":"aliquot-device-nvidia","Config":{"gpu":[{"h100":[{"mode":"off"}]}]}}`), "nvidia", nil, map[Level]string{Failure: "kernel driver is loaded"}},
		{"the other vendor's plugin is missing", plugins(`{"Name":"aliquot-device-nvidia","Config":null}`), "nvidia amd", []*api.NodeDeviceResource{nvidia}, map[Level]string{OK: "2 healthy", Warning: "no AMD GPU is offered"}},
		{"fewer than configured", `{}`, "nvidia", []*api.NodeDeviceResource{clamped}, map[Level]string{Warning: "48 slices instead of 100"}},
		{"another plugin", `{}`, "nvidia", []*api.NodeDeviceResource{foreign, nvidia}, map[Level]string{Failure: "Tesla T4 is offered by another device plugin", OK: "2 healthy"}},
		{"only another plugin", `{}`, "nvidia", []*api.NodeDeviceResource{foreign}, map[Level]string{Failure: "offered by another", Warning: "no NVIDIA GPU is offered"}},
		{"some unhealthy", `{}`, "nvidia", []*api.NodeDeviceResource{sick}, map[Level]string{Failure: "1 of 2 instances are unhealthy: XID 79"}},
	} {
		f := facts(t, c.config, "aliquot")
		f.Node.NodeResources.Devices = c.groups
		for _, vendor := range strings.Fields(c.loaded) {
			f.Node.Attributes["driver.aliquot.gpu."+vendor] = "true"
		}
		got := map[Level]string{}
		for _, x := range Examine(f) {
			if x.Check == "devices" {
				got[x.Level] += x.What + " " + x.Fix
			}
		}
		ok := len(got) == len(c.want)
		for level, part := range c.want {
			ok = ok && strings.Contains(got[level], part)
		}
		if !ok {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestUnhealthyDevicesNameTheReasonOnce(t *testing.T) {
	f := facts(t, `{}`, "aliquot")
	bad := &api.NodeDevice{HealthDescription: "XID 79"}
	f.Node.NodeResources.Devices = []*api.NodeDeviceResource{{Vendor: "nvidia", Type: "gpu", Name: "h100-0", Instances: []*api.NodeDevice{bad, bad}, Attributes: map[string]*api.Attribute{"slices": {}}}}
	got := find(Examine(f), "devices")
	if got.Level != Failure || strings.Count(got.What, "XID 79") != 1 {
		t.Fatalf("got %+v", got)
	}
}

func TestAnEstimatedWeightIsAWarning(t *testing.T) {
	f := facts(t, `{}`, "aliquot")
	source := "estimate"
	f.Node.NodeResources.Devices = []*api.NodeDeviceResource{{Vendor: "nvidia", Type: "gpu", Name: "gb400-0", Instances: []*api.NodeDevice{{Healthy: true}}, Attributes: map[string]*api.Attribute{"slices": {}, "weight_source": {StringVal: &source}}}}
	if got := find(Examine(f), "devices"); got.Level != Warning || !strings.Contains(got.What, "estimate") {
		t.Fatalf("got %+v", got)
	}
}

func TestMPSDaemonsOfOthersAreFound(t *testing.T) {
	f := facts(t, `{"Plugins":[{"Name":"aliquot-device-nvidia","Config":{"run_dir":"/run/gpus/"}}]}`, "aliquot")
	f.MPSDaemons = map[int]string{7: "/run/gpus/mps/GPU-1/pipe"}
	if got := find(Examine(f), "mps"); got.What != "" {
		t.Errorf("the plugin's own: %+v", got)
	}
	f.MPSDaemons[8], f.MPSDaemons[9] = "/tmp/nvidia-mps", "/run/gpus2/mps/GPU-1/pipe"
	if got := find(Examine(f), "mps"); got.Level != Warning || !strings.HasSuffix(got.What, "not the device plugin's: PID 8 at /tmp/nvidia-mps, PID 9 at /run/gpus2/mps/GPU-1/pipe") {
		t.Errorf("two others: %+v", got)
	}
}

func TestNodesThatSystemdCannotName(t *testing.T) {
	f := facts(t, `{}`, "aliquot")
	if got := find(Examine(f), "systemd"); got.What != "" {
		t.Errorf("none: %+v", got)
	}
	f.Unnamed = []string{"/dev/nvidia0", "/dev/nvidiactl"}
	if got := find(Examine(f), "systemd"); got.Level != Warning || !strings.Contains(got.What, "/dev/nvidia0, /dev/nvidiactl") || !strings.Contains(got.Fix, "create-dev-char-symlinks") {
		t.Errorf("two: %+v", got)
	}
}

func TestEveryFindingThatIsNotOKHasAFix(t *testing.T) {
	f := facts(t, `{"Telemetry":{"PublishAllocationMetrics":false}}`)
	f.DefaultMPSDirectory, f.MPSDaemons, f.Unnamed = true, map[int]string{8: "/x"}, []string{"/dev/nvidia0"}
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
