package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"aliquot.example/e2e/cluster"
	"aliquot.example/e2e/rack"
	"aliquot.example/internal/doctor"
)

// TestPluginBlocksOfThePages starts agents with the plugin blocks in the documentation, unchanged,
// and checks that the GPUs are offered as the pages say.
func TestPluginBlocksOfThePages(t *testing.T) {
	for _, c := range []struct {
		name        string
		nvidia, amd string         // pages
		groups      map[string]int // instances by group
	}{
		{"cluster", "../docs/cluster.md", "../docs/cluster.md", map[string]int{"h100-0": 20, "t4-1": 20, "t4-2": 20, "mi210-1": 20, "mi300x-0": 20}},
		{"references", "../docs/nvidia.md", "../docs/amd.md", map[string]int{"h100-0": 20, "t4-1": 20, "t4-2": 20, "mi210-1": 16, "mi300x-cpx-nps1": 8}},
	} {
		t.Run(c.name, func(t *testing.T) {
			gpus := append(rack.AMDHost(rack.MI300X, 1, "SPX", "NPS1"), rack.AMDHost(rack.MI210, 2, "", "")[1:]...)
			ctx, cl := start(t, cluster.Options{
				Rack: "h100-2xt4", Device: pluginConfig(t, c.nvidia, cluster.DevicePlugin),
				AMD: &cluster.AMD{GPUs: gpus, Release: "26.5", Device: pluginConfig(t, c.amd, cluster.AMDPlugin)},
			})
			err := cluster.Await(ctx, "the groups", func() string {
				groups, err := cl.Groups()
				if err != nil {
					return err.Error()
				}
				got := map[string]int{}
				for name, g := range groups {
					got[name] = len(g.Instances)
				}
				if fmt.Sprint(got) != fmt.Sprint(c.groups) {
					return fmt.Sprintf("%v, want %v", got, c.groups)
				}
				return ""
			})
			if err != nil {
				t.Error(err)
			}
			for _, f := range findings(ctx, t, cl) {
				// An MPS daemon elsewhere belongs to another program of this machine.
				elsewhere := f.Check == "mps" && !strings.Contains(f.What, cl.Dir)
				if f.Level != doctor.OK && !elsewhere {
					t.Errorf("doctor finds %+v", f)
				}
			}
		})
	}
}

// pluginConfig returns the content of the config block in a page's plugin block.
func pluginConfig(t *testing.T, page, plugin string) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?s)plugin "` + plugin + `" \{\n  config \{\n(.*?\n)  \}\n\}`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("%s shows no block of plugin %q", page, plugin)
	}
	return string(m[1])
}
