// Package aliquot is the task driver "aliquot". It embeds Nomad's docker driver, chooses the image by
// the granted hardware, and gives the container exactly the GPUs, slices and limits that the task was
// granted.
package aliquot

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/drivers/docker"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"

	"aliquot.example/internal/version"
)

// MPS queries the MPS daemon of a pipe directory, through a control program.
type MPS struct {
	// Clients lists the host PIDs of the processes that use the daemon.
	Clients func(ctx context.Context, control, pipe string) ([]int, error)
	// Faulted lists the clients of servers in FAULT, and reports whether there is such a server.
	Faulted func(ctx context.Context, control, pipe string) ([]int, bool, error)
}

// Driver embeds the concrete docker driver, so it inherits all methods that this package does not define
// (exec, signals, statistics, networks, logs).
type Driver struct {
	*docker.Driver
	ctx    context.Context
	log    hclog.Logger
	events *announcer
	mps    MPS
	tasks  *tasks
	watch  sync.Once
	levels *levels
	models *models

	mu       sync.RWMutex
	set      settings
	runtimes []string // of the container engine, from its last fingerprint
	// agent is the PID of the Nomad agent whose configuration gave dangling.
	agent                 int
	dangling, danglingWhy string
}

// New returns the driver. It touches neither the host nor the engine.
func New(ctx context.Context, log hclog.Logger, mps MPS) *Driver {
	log = log.Named(Name)
	return &Driver{
		Driver: docker.NewDockerDriver(ctx, log).(*docker.Driver),
		ctx:    ctx, log: log, mps: mps,
		events: newAnnouncer(ctx, log), tasks: newTasks(), levels: newLevels(), models: newModels(),
	}
}

// PluginInfo implements base.BasePlugin.
func (d *Driver) PluginInfo() (*base.PluginInfoResponse, error) {
	return &base.PluginInfoResponse{
		Type: base.PluginTypeDriver, PluginApiVersions: []string{drivers.ApiVersion010},
		PluginVersion: version.Version, Name: Name,
	}, nil
}

// ConfigSchema implements base.BasePlugin.
func (d *Driver) ConfigSchema() (*hclspec.Spec, error) {
	spec, err := d.Driver.ConfigSchema()
	if err != nil {
		return nil, err
	}
	return configSpec(spec), nil
}

// TaskConfigSchema implements drivers.DriverPlugin.
func (d *Driver) TaskConfigSchema() (*hclspec.Spec, error) {
	spec, err := d.Driver.TaskConfigSchema()
	if err != nil {
		return nil, err
	}
	return taskSpec(spec), nil
}

// SetConfig implements base.BasePlugin. Nomad also calls it in processes that
// only validate, so it starts nothing.
func (d *Driver) SetConfig(c *base.Config) error {
	var config DriverConfig
	if len(c.PluginConfig) != 0 {
		if err := base.MsgPackDecode(c.PluginConfig, &config); err != nil {
			return fmt.Errorf("plugin \"aliquot-driver\": config: %w", err)
		}
	}
	set, err := config.settings()
	if err != nil {
		return fmt.Errorf("plugin \"aliquot-driver\": config: %w", err)
	}
	d.mu.Lock()
	d.set = set
	d.mu.Unlock()
	return d.Driver.SetConfig(c)
}

func (d *Driver) settings() (settings, []string) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.set, d.runtimes
}

// StartTask implements drivers.DriverPlugin: it chooses the image, attaches the
// grant in the task's DeviceEnv and lets the docker driver do the rest.
func (d *Driver) StartTask(cfg *drivers.TaskConfig) (*drivers.TaskHandle, *drivers.DriverNetwork, error) {
	set, runtimes := d.settings()
	start, err := set.prepare(cfg, runtimes)
	if err != nil {
		return nil, nil, err
	}
	took := startTimes{began: time.Now()}
	ctx, ended := context.WithCancel(d.ctx)
	defer ended()
	var image *pull // in the background, if the start may take long
	if start.announced() {
		image = d.pullBeside(ctx, cfg, start.task)
	}
	found, err := d.fetchModels(cfg, &start, image)
	if err != nil {
		return nil, nil, err
	}
	came := time.Now()
	var brought fetched
	if found != nil {
		brought.models = &modelState{Mounted: whole(found)}
	}
	if image != nil {
		<-image.done
		took.fetched(found != nil, image.at, came)
	}
	if began := time.Now(); start.compile.on {
		brought.compiled = d.seed(cfg, &start, found)
		took.add("compile cache", "compile_cache", time.Since(began))
	}
	began := time.Now()
	if image == nil {
		d.pullThrough(ctx, cfg, start.task)
	}
	handle, network, err := d.launch(cfg, start, brought)
	if err != nil {
		d.release(cfg.ID)
		return nil, nil, err
	}
	if found != nil && !brought.models.Mounted {
		go d.followModels(cfg, start.models)
	}
	what := "container"
	if image != nil && image.at.IsZero() {
		what = "image and container"
	}
	took.add(what, "container", time.Since(began))
	if t, ok := d.tasks.get(cfg.ID); ok && start.announced() {
		go d.reportStart(t, took, start.ready)
	}
	return handle, network, nil
}

// fetched has the models and the compile cache of a start, nil for those that the job does not request.
type fetched struct {
	models   *modelState
	compiled *compiledState
}

// launch waits for the room that a grant needs and starts the container.
func (d *Driver) launch(cfg *drivers.TaskConfig, start start, b fetched) (*drivers.TaskHandle,
	*drivers.DriverNetwork, error) {
	if grant := start.check.grant(); grant != nil {
		defer d.tasks.settle(cfg.ID)
		if err := d.tasks.room(d.ctx, cfg, *grant); err != nil {
			return nil, nil, err
		}
		if err := d.awaitServer(*grant); err != nil {
			return nil, nil, err
		}
	}
	d.emit(cfg, start.message, start.notes)
	handle, network, err := d.Driver.StartTask(start.config)
	if err != nil {
		return nil, nil, err
	}
	// Nomad must keep the original configuration, not the one for this host.
	handle.Config = cfg
	if err := d.follow(handle, start.check, b); err != nil {
		_ = d.Driver.DestroyTask(cfg.ID, true)
		return nil, nil, err
	}
	if t, ok := d.tasks.get(cfg.ID); ok && t.grant != nil {
		d.holdMemory(cfg, *t.grant, t.container)
	}
	return handle, network, nil
}

// RecoverTask implements drivers.DriverPlugin.
func (d *Driver) RecoverTask(handle *drivers.TaskHandle) error {
	if handle == nil {
		return fmt.Errorf("the task to recover has no handle")
	}
	if _, ok := d.tasks.get(handle.Config.ID); ok {
		return nil
	}
	if err := d.Driver.RecoverTask(handle); err != nil {
		return err
	}
	return d.resume(handle)
}

// WaitTask implements drivers.DriverPlugin. A task that this driver has ended, such as one that never
// used its GPU, exits with that reason, whatever the exit code of its process is.
func (d *Driver) WaitTask(ctx context.Context, id string) (<-chan *drivers.ExitResult, error) {
	in, err := d.Driver.WaitTask(ctx, id)
	if err != nil {
		return nil, err
	}
	t, ok := d.tasks.get(id)
	if !ok {
		return in, nil
	}
	out := make(chan *drivers.ExitResult)
	go func() {
		defer close(out)
		for result := range in {
			select {
			case out <- t.verdict(result):
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

// StopTask implements drivers.DriverPlugin.
func (d *Driver) StopTask(id string, timeout time.Duration, signal string) error {
	d.tasks.expectEnd(id)
	return d.Driver.StopTask(id, timeout, signal)
}

// SignalTask implements drivers.DriverPlugin.
func (d *Driver) SignalTask(id, signal string) error {
	if strings.HasSuffix(strings.ToUpper(signal), "KILL") {
		d.tasks.expectEnd(id)
	}
	return d.Driver.SignalTask(id, signal)
}

// DestroyTask implements drivers.DriverPlugin.
func (d *Driver) DestroyTask(id string, force bool) error {
	d.tasks.expectEnd(id)
	if err := d.Driver.DestroyTask(id, force); err != nil {
		return err
	}
	d.tasks.forget(id)
	d.release(id)
	return nil
}

var (
	_ drivers.DriverPlugin            = (*Driver)(nil)
	_ drivers.DriverNetworkManager    = (*Driver)(nil)
	_ drivers.ExecTaskStreamingDriver = (*Driver)(nil)
)
