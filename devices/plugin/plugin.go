package plugin

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/device"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"

	"aliquot.example/internal/version"
)

// Plugin is a Nomad device plugin for one maker's GPUs.
type Plugin struct {
	maker Maker
	log   hclog.Logger

	mu   sync.Mutex
	loop *loop // nil before SetConfig
}

var _ device.DevicePlugin = (*Plugin)(nil)

// New returns the plugin of a maker.
func New(maker Maker, log hclog.Logger) *Plugin { return &Plugin{maker: maker, log: log} }

// Serve runs the plugin until Nomad ends it.
func Serve(maker Maker) {
	plugins.Serve(func(log hclog.Logger) any { return New(maker, log) })
}

// PluginInfo names the plugin.
func (p *Plugin) PluginInfo() (*base.PluginInfoResponse, error) {
	return &base.PluginInfoResponse{
		Type:              base.PluginTypeDevice,
		PluginApiVersions: []string{device.ApiVersion010},
		PluginVersion:     version.Version,
		Name:              p.maker.Name,
	}, nil
}

// ConfigSchema describes the plugin's config block.
func (p *Plugin) ConfigSchema() (*hclspec.Spec, error) { return p.maker.schema(), nil }

// SetConfig validates the configuration and does not touch the host, because Nomad also calls it in
// processes that it launches only to validate.
func (p *Plugin) SetConfig(c *base.Config) error {
	raw := map[string]any{}
	if len(c.PluginConfig) > 0 {
		if err := base.MsgPackDecode(c.PluginConfig, &raw); err != nil {
			return fmt.Errorf("%s: the configuration cannot be decoded: %w", p.maker.Name, err)
		}
	}
	config, err := p.maker.Config(raw)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	// Nomad configures a plugin twice in one process when it validates it.
	if p.loop != nil && p.loop.running() {
		return fmt.Errorf("%s is running; restart the Nomad agent to change its configuration", p.maker.Name)
	}
	wake := make(chan struct{}, 1)
	host := Host{Log: p.log, Numbers: NewNumbers(config.RunDir, p.maker.Vendor, p.log), Wake: func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	}}
	vendor, err := p.maker.New(config, host)
	if err == nil {
		err = config.Settings.Err()
	}
	if err != nil {
		return err
	}
	p.loop = newLoop(p.maker.Vendor, config, vendor, host, wake)
	return nil
}

func (p *Plugin) configured() (*loop, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.loop == nil {
		return nil, fmt.Errorf("%s has no configuration: Nomad must call SetConfig first", p.maker.Name)
	}
	return p.loop, nil
}

// Fingerprint streams the device groups whenever they change. It never sends an error, because Nomad
// never uses a plugin again after one.
func (p *Plugin) Fingerprint(ctx context.Context) (<-chan *device.FingerprintResponse, error) {
	l, err := p.configured()
	if err != nil {
		return nil, err
	}
	l.acquire()
	out := make(chan *device.FingerprintResponse)
	go func() {
		defer close(out)
		defer l.release()
		l.stream(ctx, out)
	}()
	return out, nil
}

// Reserve returns the environment of a task that gets the device instances. It depends only on the
// IDs and the hardware, so Nomad may call it at any time.
func (p *Plugin) Reserve(ids []string) (*device.ContainerReservation, error) {
	l, err := p.configured()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), reserveTimeout)
	defer cancel()
	return l.reserve(ctx, ids)
}

// reserveTimeout limits the wait for a GPU that is still being configured.
const reserveTimeout = 15 * time.Second

// Stats streams statistics once per interval.
func (p *Plugin) Stats(ctx context.Context, interval time.Duration) (<-chan *device.StatsResponse, error) {
	l, err := p.configured()
	if err != nil {
		return nil, err
	}
	if interval <= 0 {
		interval = time.Second
	}
	out := make(chan *device.StatsResponse)
	go func() {
		defer close(out)
		l.stats(ctx, interval, out)
	}()
	return out, nil
}
