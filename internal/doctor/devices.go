package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/agent"
	"aliquot.example/internal/gpu"
)

// devices looks at what the node offers, and at each vendor of which it offers
// nothing though something of it is there.
func devices(f Facts) []Finding {
	var out, missing []Finding
	offered := map[string]bool{}
	if f.Node.NodeResources != nil {
		for _, g := range f.Node.NodeResources.Devices {
			if g.Type == gpu.DeviceType {
				offered[g.Vendor] = offered[g.Vendor] || ours(g)
				out = append(out, group(g))
			}
		}
	}
	var plugins, tools []string
	for _, m := range gpu.Makers() {
		if !offered[string(m.Vendor)] {
			missing = append(missing, notOffered(m, f)...)
		}
		plugins, tools = append(plugins, m.Plugin), append(tools, m.Tool)
	}
	if len(out)+len(missing) == 0 {
		return []Finding{{Failure, "devices", "the node offers no GPU",
			fmt.Sprintf("check that the vendor's driver is loaded (%s) and that its plugin (%s) is in %s; "+
				"the agent's log says what it found", strings.Join(tools, "; "), strings.Join(plugins, ", "),
				pluginDir(f))}}
	}
	if len(out) > 0 {
		for i := range missing {
			missing[i].Level = Warning // it may be on purpose
		}
	}
	return append(out, missing...)
}

// notOffered says why a vendor's GPUs are not offered, as far as the driver's
// attributes and the agent's configuration tell.
func notOffered(m gpu.Maker, f Facts) []Finding {
	config := plugin(f.Agent.Config, m.Plugin)
	loaded := f.Node.Attributes["driver.aliquot.gpu."+string(m.Vendor)] == "true"
	d := f.Node.Drivers["aliquot"]
	looked := d != nil && d.Detected // the attribute is the driver's
	switch {
	case config != nil && allOff(config):
		return []Finding{{Warning,
			"devices", fmt.Sprintf("no %s GPU is offered: %s is configured with mode \"off\" for all", m.Name,
				m.Plugin), `write another mode into its gpu "*" block, or take the plugin away`}}
	case loaded:
		return []Finding{{Failure, "devices", fmt.Sprintf("%s's kernel driver is loaded, but no %s GPU is offered",
			m.Name, m.Name),
			fmt.Sprintf("put %s into %s and restart the agent; where it is there, the agent's log says what it found",
				m.Plugin, pluginDir(f))}}
	case config != nil && looked:
		return []Finding{{Failure, "devices", fmt.Sprintf("%s is configured, but %s's kernel driver is not loaded",
			m.Plugin, m.Name),
			fmt.Sprintf("install it or load it (%s shows the GPUs then); the GPUs are found without a restart",
				m.Tool)}}
	}
	return nil
}

// allOff tells that a plugin's configuration offers nothing: there is a block for
// all GPUs, and no block has another mode than off.
func allOff(config any) bool {
	blocks, _ := agent.Descend(config)
	all := false
	m, _ := blocks.(map[string]any)
	list, ok := m["gpu"].([]any)
	if !ok {
		list = []any{m["gpu"]}
	}
	for _, labels := range list {
		labels, _ := labels.(map[string]any)
		for label, block := range labels {
			if mode, _ := agent.Descend(block, "mode"); mode != "off" {
				return false
			}
			all = all || label == "*"
		}
	}
	return all
}

// ours tells whether a group is of a plugin of this suite: all of them have the
// attribute.
func ours(g *api.NodeDeviceResource) bool { return g.Attributes["slices"] != nil }

func group(g *api.NodeDeviceResource) Finding {
	var reasons []string
	sick := 0
	for _, d := range g.Instances {
		if d.Healthy {
			continue
		}
		sick++
		if !slices.Contains(reasons, d.HealthDescription) {
			reasons = append(reasons, d.HealthDescription)
		}
	}
	name := g.Vendor + "/" + g.Type + "/" + g.Name
	if !ours(g) {
		return Finding{Failure, "devices", name +
			" is offered by another device plugin, so that its GPUs may be given out twice",
			"take that plugin out of plugin_dir and of the configuration, such as nomad-device-nvidia"}
	}
	if sick > 0 {
		return Finding{Failure, "devices", fmt.Sprintf("%s: %d of %d instances are unhealthy: %s", name, sick,
			len(g.Instances), strings.Join(reasons, "; ")),
			"docs/operations.md, Health of devices, says what to do about each reason"}
	}
	if clamp := g.Attributes["slices_clamped"]; clamp != nil && clamp.StringVal != nil {
		return Finding{Warning, "devices", fmt.Sprintf("%s has %s", name, *clamp.StringVal),
			"write a number that it can have into the gpu block: " +
				"jobs that ask for slices of the other number find no place"}
	}
	if source := g.Attributes["weight_source"]; source != nil && source.StringVal != nil &&
		(*source.StringVal == "estimate" || *source.StringVal == "unknown") {
		return Finding{Warning, "devices", fmt.Sprintf("%s is not in the hardware table: its weight is %s", name,
			map[string]string{"estimate": "an estimate", "unknown": "not known"}[*source.StringVal]),
			"write weight into its gpu block, as docs/hardware.md says; until replicas are measured, " +
				"shares and counts rest on it"}
	}
	return Finding{OK, "devices", fmt.Sprintf("%s has %d healthy instances", name, len(g.Instances)), ""}
}
