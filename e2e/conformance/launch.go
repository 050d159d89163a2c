// Package conformance is the test suite for all device plugins of the project, for every vendor and
// every release of the vendor's library. It runs the shipped binary on a rack, through Nomad's own
// plugin loader.
package conformance

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/helper/pluginutils/loader"
	"github.com/hashicorp/nomad/nomad/structs/config"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/device"
)

// Launch describes one start of a plugin.
type Launch struct {
	// Binary is the shipped program; its file name is the plugin's name.
	Binary string
	// Env is the whole environment of the plugin's process.
	Env []string
	// Config is the plugin's config block.
	Config map[string]any
	// Dir is an empty folder for this start.
	Dir string
	// Log receives what the plugin logs.
	Log hclog.Logger
}

// Running is a plugin that answers.
type Running struct {
	device.DevicePlugin
	instance loader.PluginInstance
	// Info is the plugin's name, type and version.
	Info *base.PluginInfoResponse
}

// Start validates the configuration and launches the plugin. Like the agent, it first starts the
// binary once only to validate.
func (l Launch) Start() (running *Running, err error) {
	name := filepath.Base(l.Binary)
	if err := l.install(name); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			l.sweep()
		}
	}()
	log := l.Log
	if log == nil {
		log = hclog.NewNullLogger()
	}
	catalog, err := loader.NewPluginLoader(&loader.PluginLoaderConfig{
		Logger: log, PluginDir: l.Dir, SupportedVersions: loader.AgentSupportedApiVersions,
		Configs: []*config.PluginConfig{{Name: name, Config: l.Config}},
	})
	if err != nil {
		return nil, err
	}
	infos := catalog.Catalog()[base.PluginTypeDevice]
	if len(infos) != 1 {
		return nil, fmt.Errorf("%s gave %d device plugins, want one", l.Binary, len(infos))
	}
	instance, err := catalog.Dispense(infos[0].Name, base.PluginTypeDevice, nil, log)
	if err != nil {
		return nil, err
	}
	plugin, ok := instance.Plugin().(device.DevicePlugin)
	if !ok {
		instance.Kill()
		return nil, fmt.Errorf("%s is not a device plugin", l.Binary)
	}
	return &Running{plugin, instance, infos[0]}, nil
}

// install writes a start script, with the plugin's name, into the plugin folder, so that plugins of
// several racks can run at the same time in one test process.
func (l Launch) install(name string) error {
	binary, err := filepath.Abs(l.Binary)
	if err != nil {
		return err
	}
	var script strings.Builder
	fmt.Fprintf(&script, "#!/bin/sh\necho $$ >> %s\n", quote(l.pids()))
	for _, e := range l.Env {
		key, value, _ := strings.Cut(e, "=")
		if strings.Trim(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") == "" {
			fmt.Fprintf(&script, "export %s=%s\n", key, quote(value))
		}
	}
	fmt.Fprintf(&script, "exec %s \"$@\"\n", quote(binary))
	return os.WriteFile(filepath.Join(l.Dir, name), []byte(script.String()), 0o755)
}

// pids returns the file to which every process of this start writes its ID.
func (l Launch) pids() string { return filepath.Join(l.Dir, "pids.txt") }

// sweep ends the processes of a start that failed: Nomad's loader leaves a plugin running that
// rejects its configuration. The agent exits soon afterwards; a test does not.
func (l Launch) sweep() {
	text, _ := os.ReadFile(l.pids())
	for _, field := range strings.Fields(string(text)) {
		if pid, err := strconv.Atoi(field); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// PID returns the PID of the plugin's process.
func (r *Running) PID() int {
	c, ok := r.instance.ReattachConfig()
	if !ok {
		return 0
	}
	return c.Pid
}

// Kill ends the plugin as the agent does when it stops.
func (r *Running) Kill() { r.instance.Kill() }

// Groups reads fingerprints until ok holds for one, and returns it. It fails if the plugin reports
// an error or ctx ends.
func (r *Running) Groups(ctx context.Context, ok func([]*device.DeviceGroup) bool) ([]*device.DeviceGroup, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := r.Fingerprint(ctx)
	if err != nil {
		return nil, err
	}
	var last []*device.DeviceGroup
	for {
		select {
		case response, open := <-stream:
			switch {
			case !open:
				return last, fmt.Errorf("the fingerprint stream was closed")
			case response.Error != nil:
				return last, fmt.Errorf("a fingerprint error ends a plugin for good: %w", response.Error)
			}
			if last = response.Devices; ok(last) {
				return last, nil
			}
		case <-ctx.Done():
			return last, fmt.Errorf("%w; the last fingerprint was %s", ctx.Err(), Describe(last))
		}
	}
}

// Describe formats groups for messages: name, healthy and total instances, and why instances are
// unhealthy.
func Describe(groups []*device.DeviceGroup) string {
	var parts []string
	for _, g := range groups {
		healthy, reasons := 0, map[string]bool{}
		for _, d := range g.Devices {
			if d.Healthy {
				healthy++
			} else {
				reasons[d.HealthDesc] = true
			}
		}
		text := fmt.Sprintf("%s %d/%d", g.Name, healthy, len(g.Devices))
		for reason := range reasons {
			text += fmt.Sprintf(" (%s)", reason)
		}
		parts = append(parts, text)
	}
	if len(parts) == 0 {
		return "no groups"
	}
	return strings.Join(parts, ", ")
}
