package doctor

import "aliquot.example/internal/agent"

// dangling checks whether Nomad's docker driver uses the same engine and removes containers that it
// does not know: it would remove those of aliquot's tasks.
func dangling(f Facts) []Finding {
	stock := f.Node.Drivers["docker"]
	ours := f.Node.Drivers["aliquot"]
	if stock == nil || !stock.Detected || ours == nil || !ours.Detected {
		return []Finding{{OK, "dangling", "no second docker driver shares the engine", ""}}
	}
	// Prefer the aliquot driver's own attribute: the driver also knows which engine the docker driver
	// uses.
	switch seen := f.Node.Attributes["driver.aliquot.dangling_containers"]; seen {
	case "safe", "unsafe":
		return danglingIs(seen == "unsafe")
	}
	on, known := danglingOn(f.Agent.Config)
	if !known {
		return []Finding{{Warning, "dangling", "the docker driver is active too, but its configuration cannot be read",
			agent.DanglingAdvice}}
	}
	return danglingIs(on)
}

func danglingIs(on bool) []Finding {
	if on {
		return []Finding{{Failure,
			"dangling", "the docker driver removes containers that it does not know, " +
				"including those of the aliquot driver", agent.DanglingAdvice}}
	}
	return []Finding{{OK, "dangling", "the docker driver leaves containers of other drivers alone", ""}}
}

// danglingOn reports whether the docker driver's configuration makes it remove unknown containers.
// known is false if the configuration has an unknown form.
func danglingOn(config map[string]any) (on, known bool) {
	if _, list := config["Plugins"].([]any); !list && config["Plugins"] != nil {
		return true, false
	}
	return agent.Collects(plugin(config, "docker"))
}

// plugin returns the config block of a plugin, nil if the agent has none.
func plugin(config map[string]any, name string) any {
	list, _ := config["Plugins"].([]any)
	for _, p := range list {
		if block, ok := p.(map[string]any); ok && block["Name"] == name {
			return block["Config"]
		}
	}
	return nil
}
