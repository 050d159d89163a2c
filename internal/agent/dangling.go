// Package agent interprets the configuration of a Nomad agent, from its files or its API, as far as it
// affects Aliquot's driver.
package agent

import "strconv"

// DanglingAdvice names the two ways to prevent Nomad's docker driver from removing the containers
// of Aliquot's driver; docs/decisions/0005 says why there is no third.
const DanglingAdvice = `in the agent's configuration set plugin "docker" { config { gc { dangling_containers { ` +
	`enabled = false } } } }, ` +
	`or keep that driver off this node with client { options = { "driver.denylist" = "docker" } }`

// Collects reports whether a docker driver with this configuration (nil for none)
// removes containers that it did not start: it does unless gc {
// dangling_containers { } } has enabled = false or dry_run = true. known is false
// if the configuration has an unknown form.
func Collects(docker any) (on, known bool) {
	block, _ := Descend(docker, "gc", "dangling_containers")
	enabled, known := truth(block, "enabled", true)
	dry, also := truth(block, "dry_run", false)
	return enabled && !dry, known && also
}

// truth reads a boolean of a block, which in HCL may also be text. It returns missing if the key is
// not set.
func truth(block any, key string, missing bool) (value, known bool) {
	v, found := Descend(block, key)
	if !found {
		return missing, true
	}
	switch v := v.(type) {
	case bool:
		return v, true
	case string:
		b, err := strconv.ParseBool(v)
		return b, err == nil
	}
	return false, false
}

// Descend follows keys through maps, and through lists of HCL blocks, of which the last applies.
// The second result is false if nothing is set.
func Descend(v any, keys ...string) (any, bool) {
	switch list := v.(type) {
	case []any:
		if len(list) == 0 {
			return nil, false
		}
		return Descend(list[len(list)-1], keys...)
	case []map[string]any:
		if len(list) == 0 {
			return nil, false
		}
		return Descend(list[len(list)-1], keys...)
	}
	if len(keys) == 0 {
		return v, v != nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, false
	}
	return Descend(m[keys[0]], keys[1:]...)
}
