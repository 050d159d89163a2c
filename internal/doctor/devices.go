package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/agent"
	"aliquot.example/internal/gpu"
)

// devices checks the GPUs that the node offers. It also finds vendors whose driver or plugin is
// there, but whose GPUs the node does not offer.
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
				"the agent's log says what the plugin found", strings.Join(tools, "; "), strings.Join(plugins, ", "),
				pluginDir(f))}}
	}
	if len(out) > 0 {
		for i := range missing {
			missing[i].Level = Warning // may be intended
		}
	}
	return append(out, missing...)
}

// notOffered finds out from the task driver's attributes and the agent's configuration why a vendor's
// GPUs are not offered.
func notOffered(m gpu.Maker, f Facts) []Finding {
	config := plugin(f.Agent.Config, m.Plugin)
	loaded := f.Node.Attributes["driver.aliquot.gpu."+string(m.Vendor)] == "true"
	d := f.Node.Drivers["aliquot"]
	looked := d != nil && d.Detected // the task driver sets the attribute
	switch {
	case config != nil && allOff(config):
		return []Finding{{Warning,
			"devices", fmt.Sprintf("no %s GPU is offered: %s is configured with mode \"off\" for all", m.Name,
				m.Plugin), `set another mode in its gpu "*" block, or remove the plugin`}}
	case loaded:
		return []Finding{{Failure, "devices", fmt.Sprintf("%s's kernel driver is loaded, but no %s GPU is offered",
			m.Name, m.Name),
			fmt.Sprintf("put %s into %s and restart the agent; if it is there, the agent's log says what it found",
				m.Plugin, pluginDir(f))}}
	case config != nil && looked:
		return []Finding{{Failure, "devices", fmt.Sprintf("%s is configured, but %s's kernel driver is not loaded",
			m.Plugin, m.Name),
			fmt.Sprintf("install or load it (%s then shows the GPUs); the plugin finds them without a restart",
				m.Tool)}}
	}
	return nil
}

// allOff reports whether a plugin's configuration offers nothing: it has a block for all GPUs, and
// all blocks have mode off.
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

// ours reports whether one of aliquot's plugins offers a group: they all set this attribute.
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
			" is offered by another device plugin, so its GPUs may be allocated twice",
			"remove that plugin, for example nomad-device-nvidia, from plugin_dir and from the configuration"}
	}
	if sick > 0 {
		return Finding{Failure, "devices", fmt.Sprintf("%s: %d of %d instances are unhealthy: %s", name, sick,
			len(g.Instances), strings.Join(reasons, "; ")),
			"see \"Health of devices\" in docs/operations.md for each reason"}
	}
	if clamp := g.Attributes["slices_clamped"]; clamp != nil && clamp.StringVal != nil {
		return Finding{Warning, "devices", fmt.Sprintf("%s has %s", name, *clamp.StringVal),
			"set a supported number in the gpu block: " +
				"jobs that request slices of the configured number cannot be placed"}
	}
	if source := g.Attributes["weight_source"]; source != nil && source.StringVal != nil &&
		(*source.StringVal == "estimate" || *source.StringVal == "unknown") {
		return Finding{Warning, "devices", fmt.Sprintf("%s is not in the hardware table: its weight is %s", name,
			map[string]string{"estimate": "an estimate", "unknown": "not known"}[*source.StringVal]),
			"set weight in its gpu block, see docs/hardware.md; shares and counts depend on the weight " +
				"until replicas have been measured"}
	}
	return Finding{OK, "devices", fmt.Sprintf("%s has %d healthy instances", name, len(g.Instances)), ""}
}
