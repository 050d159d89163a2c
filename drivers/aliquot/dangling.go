package aliquot

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl"
	"github.com/hashicorp/nomad/plugins/drivers"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"
)

// danglingAdvice names the two ways out; docs/decisions/0005 says why there is no
// third.
const danglingAdvice = `in the agent's configuration set plugin "docker" { config { gc { dangling_containers { enabled = false } } } }, ` +
	`or keep that driver off this node with client { options = { "driver.denylist" = "docker" } }`

// The states of the node's stock docker driver as this driver sees them, values
// of the attribute driver.aliquot.dangling_containers.
const (
	danglingSafe    = "safe"
	danglingUnsafe  = "unsafe"
	danglingUnknown = "unknown"
)

// guard adds to a fingerprint whether the agent's own docker driver would remove
// this driver's containers. Where it is certain to, the driver is unhealthy: a
// task placed here would be killed within minutes.
func (d *Driver) guard(set settings, fp *drivers.Fingerprint) *drivers.Fingerprint {
	if set.dangling == DanglingOff {
		return fp
	}
	state, why := d.stockDriver(set)
	fp.Attributes[ofOurs+".dangling_containers"] = pstructs.NewStringAttribute(state)
	if state == danglingUnsafe && set.dangling == DanglingEnforce && fp.Health == drivers.HealthStateHealthy {
		fp.Health = drivers.HealthStateUnhealthy
		fp.HealthDescription = why + ": " + danglingAdvice
	}
	return fp
}

// stockDriver reads the configuration of the agent that started this process,
// once per agent: the agent, too, reads it only when it starts.
func (d *Driver) stockDriver(set settings) (state, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	agent := os.Getppid()
	if agent == d.agent {
		return d.dangling, d.danglingWhy
	}
	config, err := readAgent(agent)
	if err != nil && d.agent != 0 {
		// The agent that started this process has gone and left it to another, which
		// cannot be known; what was found is the best guess.
		return d.dangling, d.danglingWhy
	}
	d.agent = agent
	if err != nil {
		d.dangling, d.danglingWhy = danglingUnknown, err.Error()
	} else {
		d.dangling, d.danglingWhy = config.dangling(set)
	}
	switch d.dangling {
	case danglingUnsafe:
		d.log.Error(d.danglingWhy+": "+danglingAdvice, "check", set.dangling)
	case danglingUnknown:
		d.log.Warn("cannot tell whether the agent's own docker driver removes this driver's containers", "error", d.danglingWhy, "advice", danglingAdvice)
	}
	return d.dangling, d.danglingWhy
}

// agentConfig is the part of an agent's configuration that matters here.
type agentConfig struct {
	// docker is the config of plugin "docker", nil where it has none.
	docker map[string]any
	// options are client { options }.
	options map[string]string
}

// dangling says whether the agent's docker driver is a danger to this driver's
// containers, or this driver to its.
func (c agentConfig) dangling(set settings) (state, why string) {
	if c.denies("docker") {
		return danglingSafe, ""
	}
	endpoint, _ := c.docker["endpoint"].(string)
	if socket(endpoint) != socket(set.engine.endpoint) {
		return danglingSafe, ""
	}
	if set.removes {
		return danglingUnsafe, "this driver's gc { dangling_containers } is on and would remove the containers of the agent's docker driver"
	}
	gc := block(c.docker["gc"])
	dangling := block(gc["dangling_containers"])
	if enabled(dangling, "enabled", true) && !enabled(dangling, "dry_run", false) {
		return danglingUnsafe, "the agent's own docker driver removes containers that it did not start (gc { dangling_containers } is on), and so every task of this driver within minutes"
	}
	return danglingSafe, ""
}

// denies says whether the client's options keep a driver off the node.
func (c agentConfig) denies(driver string) bool {
	listed := func(keys ...string) (bool, bool) {
		for _, key := range keys {
			if names, ok := c.options[key]; ok {
				fields := strings.FieldsFunc(names, func(r rune) bool { return r == ',' || r == ' ' })
				return slices.Contains(fields, driver), len(fields) > 0
			}
		}
		return false, false
	}
	if allowed, any := listed("driver.allowlist", "driver.whitelist"); any && !allowed {
		return true
	}
	denied, _ := listed("driver.denylist", "driver.blacklist")
	return denied
}

func socket(endpoint string) string {
	if endpoint == "" {
		endpoint = os.Getenv("DOCKER_HOST")
	}
	if endpoint == "" {
		return "unix:///var/run/docker.sock"
	}
	return strings.Replace(endpoint, "unix:///run/", "unix:///var/run/", 1)
}

func enabled(block map[string]any, key string, missing bool) bool {
	switch v := block[key].(type) {
	case bool:
		return v
	case string:
		return v == "true" || v == "1"
	default:
		return missing
	}
}

// readAgent reads the configuration of the Nomad agent with a PID from the files
// that its command line names, in the agent's order.
func readAgent(pid int) (agentConfig, error) {
	c := agentConfig{options: map[string]string{}}
	proc := fmt.Sprintf("/proc/%d", pid)
	line, err := os.ReadFile(proc + "/cmdline")
	if err != nil {
		return c, err
	}
	args := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
	if len(args) < 2 || args[1] != "agent" {
		return c, fmt.Errorf("process %d, which started this driver, is no Nomad agent", pid)
	}
	cwd, err := os.Readlink(proc + "/cwd")
	if err != nil {
		return c, err
	}
	for _, path := range configPaths(args[2:]) {
		if !filepath.IsAbs(path) {
			path = filepath.Join(cwd, path)
		}
		files, err := configFiles(path)
		if err != nil {
			return c, err
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return c, err
			}
			if err := c.merge(string(text)); err != nil {
				return c, fmt.Errorf("%s: %w", file, err)
			}
		}
	}
	return c, nil
}

// configPaths returns the values of -config in a command line.
func configPaths(args []string) []string {
	var out []string
	for i, arg := range args {
		name, value, joined := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch {
		case !strings.HasPrefix(arg, "-") || name != "config":
		case joined:
			out = append(out, value)
		case i+1 < len(args):
			out = append(out, args[i+1])
		}
	}
	return out
}

// configFiles lists a file, or the files of a folder that the agent would read.
func configFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return []string{path}, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		name := e.Name()
		hidden := strings.HasPrefix(name, ".#") || strings.HasPrefix(name, "#") || strings.HasSuffix(name, "~")
		if ext := filepath.Ext(name); !e.IsDir() && !hidden && (ext == ".hcl" || ext == ".json") {
			out = append(out, filepath.Join(path, name))
		}
	}
	return out, nil
}

// merge adds one configuration file; a later plugin config replaces an earlier
// one, options are merged key by key, as the agent does.
func (c *agentConfig) merge(text string) error {
	var root map[string]any
	if err := hcl.Decode(&root, text); err != nil {
		return err
	}
	for _, plugin := range blocks(root["plugin"]) {
		for _, docker := range blocks(plugin["docker"]) {
			if config := block(docker["config"]); len(config) > 0 {
				c.docker = config
			}
		}
	}
	for _, client := range blocks(root["client"]) {
		for _, options := range blocks(client["options"]) {
			for k, v := range options {
				c.options[k] = fmt.Sprint(v)
			}
		}
	}
	return nil
}

// blocks returns a decoded block as often as it stands, block all of them as one.
func blocks(raw any) []map[string]any {
	switch v := raw.(type) {
	case map[string]any:
		return []map[string]any{v}
	case []map[string]any:
		return v
	case []any:
		var out []map[string]any
		for _, item := range v {
			out = append(out, blocks(item)...)
		}
		return out
	default:
		return nil
	}
}

func block(raw any) map[string]any {
	out := map[string]any{}
	for _, b := range blocks(raw) {
		for k, v := range b {
			out[k] = v
		}
	}
	return out
}
