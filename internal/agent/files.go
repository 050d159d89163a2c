package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl"

	"aliquot.example/internal/host"
)

// Config is the part of an agent's configuration that concerns its docker driver.
type Config struct {
	// Docker is the config of plugin "docker", nil if there is none.
	Docker any
	// Options are client { options }.
	Options map[string]string
}

// Denies reports whether the client's options disable a driver.
func (c Config) Denies(driver string) bool {
	listed := func(keys ...string) (bool, bool) {
		for _, key := range keys {
			if names, ok := c.Options[key]; ok {
				fields := strings.FieldsFunc(names, func(r rune) bool { return r == ',' || r == ' ' })
				return slices.Contains(fields, driver), len(fields) > 0
			}
		}
		return false, false
	}
	if allowed, set := listed("driver.allowlist", "driver.whitelist"); set && !allowed {
		return true
	}
	denied, _ := listed("driver.denylist", "driver.blacklist")
	return denied
}

// Read reads the configuration of the Nomad agent with a PID from the files
// that its command line names, in the agent's order.
func Read(root host.Root, pid int) (Config, error) {
	c := Config{Options: map[string]string{}}
	proc := root.Path("/proc", strconv.Itoa(pid))
	line, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil {
		return c, err
	}
	args := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
	if len(args) < 2 || args[1] != "agent" {
		return c, fmt.Errorf("process %d, which started this driver, is not a Nomad agent", pid)
	}
	cwd, err := os.Readlink(filepath.Join(proc, "cwd"))
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
			if err := c.Merge(string(text)); err != nil {
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

// configFiles lists a file, or the files in a directory that the agent would read.
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

// Merge adds one configuration file; a later plugin config replaces an earlier
// one, options are merged key by key, as the agent does.
func (c *Config) Merge(text string) error {
	var root map[string]any
	if err := hcl.Decode(&root, text); err != nil {
		return err
	}
	for _, plugin := range blocks(root["plugin"]) {
		for _, docker := range blocks(plugin["docker"]) {
			if list := blocks(docker["config"]); len(list) > 0 {
				c.Docker = list[len(list)-1]
			}
		}
	}
	for _, client := range blocks(root["client"]) {
		for _, options := range blocks(client["options"]) {
			for k, v := range options {
				c.Options[k] = fmt.Sprint(v)
			}
		}
	}
	return nil
}

// blocks returns every occurrence of a decoded block.
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
