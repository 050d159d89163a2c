// Package conformance runs a vendor's shipped plugin binary as Nomad runs it, a
// child process that speaks go-plugin, and holds it to what every vendor must do.
package conformance

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/hcl"
	"github.com/hashicorp/nomad/helper/pluginutils/hclspecutils"
	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/device"
	"github.com/zclconf/go-cty/cty/msgpack"
)

// Child is one running plugin process.
type Child struct {
	Plugin device.DevicePlugin
	client *goplugin.Client
	cmd    *exec.Cmd

	mu     sync.Mutex
	groups []*device.DeviceGroup
	got    int // fingerprints received
	closed error
	news   chan struct{}
	cancel context.CancelFunc
}

// Launch starts the binary with the environment and dispenses its plugin. What
// the plugin logs goes to log.
func Launch(binary string, env []string, log io.Writer) (*Child, error) {
	cmd := exec.Command(binary)
	cmd.Env = env
	client := goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig:  base.Handshake,
		Plugins:          map[string]goplugin.Plugin{base.PluginTypeBase: &base.PluginBase{}, base.PluginTypeDevice: &device.PluginDevice{}},
		Cmd:              cmd,
		SkipHostEnv:      true,
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		Logger:           hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Debug}),
	})
	rpc, err := client.Client()
	if err != nil {
		client.Kill()
		return nil, err
	}
	raw, err := rpc.Dispense(base.PluginTypeDevice)
	if err != nil {
		client.Kill()
		return nil, err
	}
	return &Child{Plugin: raw.(device.DevicePlugin), client: client, cmd: cmd, news: make(chan struct{})}, nil
}

// PID of the plugin process.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Configure passes the text of a config block as the Nomad agent does: HCL 1,
// then the plugin's schema, then SetConfig.
func (c *Child) Configure(text string) error {
	var tree map[string]any
	if err := hcl.Decode(&tree, text); err != nil {
		return err
	}
	schema, err := c.Plugin.ConfigSchema()
	if err != nil {
		return err
	}
	spec, diags := hclspecutils.Convert(schema)
	if diags.HasErrors() {
		return diags
	}
	value, diags, errs := hclutils.ParseHclInterface(tree, spec, nil)
	if diags.HasErrors() {
		return fmt.Errorf("failed to parse config: %v", errs)
	}
	encoded, err := msgpack.Marshal(value, value.Type())
	if err != nil {
		return err
	}
	return c.Plugin.SetConfig(&base.Config{ApiVersion: device.ApiVersion010, PluginConfig: encoded})
}

// Follow starts to take fingerprints.
func (c *Child) Follow() error {
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := c.Plugin.Fingerprint(ctx)
	if err != nil {
		cancel()
		return err
	}
	c.cancel = cancel
	go func() {
		for r := range stream {
			c.mu.Lock()
			if r.Error != nil {
				c.closed = r.Error
			} else {
				c.groups = r.Devices
				c.got++
			}
			close(c.news)
			c.news = make(chan struct{})
			c.mu.Unlock()
		}
		c.mu.Lock()
		if c.closed == nil {
			c.closed = io.EOF
		}
		close(c.news)
		c.news = make(chan struct{})
		c.mu.Unlock()
	}()
	return nil
}

// Received is the number of fingerprints that came so far.
func (c *Child) Received() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got
}

// Await returns the first groups that satisfy ok, or an error that shows the last
// ones when none came within the time or the stream ended.
func (c *Child) Await(within time.Duration, ok func([]*device.DeviceGroup) bool) ([]*device.DeviceGroup, error) {
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	for {
		c.mu.Lock()
		groups, got, closed, news := c.groups, c.got, c.closed, c.news
		c.mu.Unlock()
		switch {
		case closed != nil:
			return nil, fmt.Errorf("the fingerprint stream ended: %w", closed)
		case got > 0 && ok(groups):
			return groups, nil
		}
		select {
		case <-news:
		case <-deadline.C:
			return nil, fmt.Errorf("no such fingerprint within %s; the last of %d is %s", within, got, Describe(groups))
		}
	}
}

// Describe prints groups in one line each.
func Describe(groups []*device.DeviceGroup) string {
	out := ""
	for _, g := range groups {
		healthy, desc := 0, ""
		for _, d := range g.Devices {
			if d.Healthy {
				healthy++
			} else {
				desc = d.HealthDesc
			}
		}
		out += fmt.Sprintf("\n%s/%s/%s: %d of %d healthy %s", g.Vendor, g.Type, g.Name, healthy, len(g.Devices), desc)
	}
	return out
}

// Stop ends the plugin as Nomad does.
func (c *Child) Stop() {
	if c.cancel != nil {
		c.cancel()
	}
	c.client.Kill()
}

// Kill ends the plugin with kill -9.
func (c *Child) Kill() error {
	err := c.cmd.Process.Signal(syscall.SIGKILL)
	c.client.Kill()
	return err
}
