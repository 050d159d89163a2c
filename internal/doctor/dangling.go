package doctor

// dangling finds the stock docker driver on the same engine with its collection
// of unknown containers on: it would remove the containers of aliquot's tasks.
func dangling(f Facts) []Finding {
	stock := f.Node.Drivers["docker"]
	ours := f.Node.Drivers["aliquot"]
	if stock == nil || !stock.Detected || ours == nil || !ours.Detected {
		return []Finding{{OK, "dangling", "no second docker driver shares the engine", ""}}
	}
	// The driver knows more: which engine the other one uses, and where it is denied.
	switch seen := f.Node.Attributes["driver.aliquot.dangling_containers"]; seen {
	case "safe", "unsafe":
		return danglingIs(seen == "unsafe")
	}
	on, known := danglingOn(f.Agent.Config)
	if !known {
		return []Finding{{Warning, "dangling", "the docker driver is active too and its configuration cannot be read", danglingFix}}
	}
	return danglingIs(on)
}

func danglingIs(on bool) []Finding {
	if on {
		return []Finding{{Failure, "dangling", "the docker driver removes containers that it does not know, those of the aliquot driver among them", danglingFix}}
	}
	return []Finding{{OK, "dangling", "the docker driver leaves containers of other drivers alone", ""}}
}

const danglingFix = `add  plugin "docker" { config { gc { dangling_containers { enabled = false } } } }  to the agent's configuration, or options = { "driver.denylist" = "docker" } to its client block`

// danglingOn tells whether the docker driver would remove such containers, by its
// gc { dangling_containers { } }: it does unless enabled is false or dry_run true.
// The second result is false when the configuration has a form that is not
// understood.
func danglingOn(config map[string]any) (on, known bool) {
	if _, list := config["Plugins"].([]any); !list && config["Plugins"] != nil {
		return true, false
	}
	block, _ := descend(plugin(config, "docker"), "gc", "dangling_containers")
	enabled, known := truth(block, "enabled", true)
	dry, also := truth(block, "dry_run", false)
	return enabled && !dry, known && also
}

// truth reads a boolean of a block, missing where it is not set.
func truth(block any, key string, missing bool) (value, known bool) {
	v, found := descend(block, key)
	if !found {
		return missing, true
	}
	value, known = v.(bool)
	return value, known
}

// plugin returns the config block of a plugin, nil where the agent has none.
func plugin(config map[string]any, name string) any {
	list, _ := config["Plugins"].([]any)
	for _, p := range list {
		if block, ok := p.(map[string]any); ok && block["Name"] == name {
			return block["Config"]
		}
	}
	return nil
}

// descend follows keys through maps and the one-element lists in which HCL blocks
// are kept.
func descend(v any, keys ...string) (any, bool) {
	if list, ok := v.([]any); ok {
		if len(list) == 0 {
			return nil, false
		}
		return descend(list[len(list)-1], keys...)
	}
	if len(keys) == 0 {
		return v, v != nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, false
	}
	return descend(m[keys[0]], keys[1:]...)
}
