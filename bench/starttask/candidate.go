package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/drivers/docker"
	"github.com/hashicorp/nomad/helper/pluginutils/hclspecutils"
	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/helper/uuid"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/msgpack"

	aliquotdriver "aliquot.example/drivers/aliquot"
	"aliquot.example/internal/gpu"
)

// candidate is one row: a driver and the kind of task that it starts.
type candidate struct {
	name   string
	driver drivers.DriverPlugin
	config map[string]any
	grant  map[string]string
	took   []time.Duration
}

// candidates returns the docker driver, and this driver without a GPU and with six slices of one.
// The device nodes and driver libraries are stand-ins, made by pretend.
func candidates(ctx context.Context, dir string) ([]candidate, error) {
	log := hclog.NewNullLogger()
	stock := docker.NewDockerDriver(ctx, log)
	ours := aliquotdriver.New(ctx, log, aliquotdriver.MPS{
		Clients: func(context.Context, string, string) ([]int, error) { return nil, nil },
		Faulted: func(context.Context, string, string) ([]int, bool, error) { return nil, false, nil },
	})
	root, pipe := filepath.Join(dir, "root"), filepath.Join(dir, "run/mps/GPU-1/pipe")
	if err := pretend(root, pipe); err != nil {
		return nil, err
	}
	kept := map[string]any{"image": false, "dangling_containers": []any{map[string]any{"enabled": false}}}
	if err := configure(stock, map[string]any{"gc": []any{kept}}); err != nil {
		return nil, err
	}
	if err := configure(ours, map[string]any{"gc": []any{kept}, "root": root, "run_dir": filepath.Join(dir, "run"),
		"dangling_containers_check": "off"}); err != nil {
		return nil, err
	}
	for _, d := range []drivers.DriverPlugin{stock, ours} {
		ch, err := d.Fingerprint(ctx)
		if err != nil {
			return nil, err
		}
		if fp := <-ch; fp.Health != drivers.HealthStateHealthy {
			return nil, fmt.Errorf("driver is %s: %s", fp.Health, fp.HealthDescription)
		}
	}
	image := map[string]any{"image": imageRef}
	byHardware := map[string]any{"images": []any{map[string]any{"cuda": imageRef, "rocm": "none:1", "cpu": imageRef}}}
	grant := gpu.Grant{
		Vendor: gpu.NVIDIA, Group: "h100-0", Class: "h100", GPUs: []gpu.ID{"GPU-1"}, PCI: []string{"0000:1b:00.0"},
		Slices: 6, Total: 20,
		Memory: 24467, Sharing: gpu.SharingMPS, Enforcement: gpu.EnforceMPSPercent, Target: "9.0", Pipe: pipe,
	}.Env()
	grant["CUDA_MPS_PIPE_DIRECTORY"], grant["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = pipe, "30"
	return []candidate{
		{name: "docker", driver: stock, config: image},
		{name: "aliquot, no GPU", driver: ours, config: byHardware},
		{name: "aliquot, 6 of 20 slices", driver: ours, config: byHardware, grant: grant},
	}, nil
}

// pretend creates a root tree with one GPU, and a pipe directory.
func pretend(root, pipe string) error {
	files := map[string]string{"proc/driver/nvidia/gpus/0000:1b:00.0/information": "Device Minor: 0\n"}
	for _, lib := range []string{"libcuda.so.1", "libcudadebugger.so.1", "libnvidia-ptxjitcompiler.so.1",
		"libnvidia-nvvm.so.4", "libnvidia-gpucomp.so.550.54.15", "libnvidia-ml.so.1"} {
		files["usr/lib/x86_64-linux-gnu/"+lib] = ""
	}
	for path, text := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "dev/shm"), 0o755); err != nil {
		return err
	}
	for _, node := range []string{"nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia0"} {
		const null = 1<<8 | 3
		if err := syscall.Mknod(filepath.Join(root, "dev", node), syscall.S_IFCHR|0o666, null); err != nil {
			return fmt.Errorf("making a device node needs root: %w", err)
		}
	}
	return os.MkdirAll(pipe, 0o755)
}

// decode decodes a block, as Nomad passes it on, by a schema.
func decode(schema *hclspec.Spec, block map[string]any) (cty.Value, error) {
	spec, diags := hclspecutils.Convert(schema)
	if diags.HasErrors() {
		return cty.NilVal, diags
	}
	value, _, errs := hclutils.ParseHclInterface(block, spec, nil)
	if len(errs) > 0 {
		return cty.NilVal, errs[0]
	}
	return value, nil
}

func configure(d drivers.DriverPlugin, block map[string]any) error {
	schema, err := d.ConfigSchema()
	if err != nil {
		return err
	}
	value, err := decode(schema, block)
	if err != nil {
		return err
	}
	encoded, err := msgpack.Marshal(value, value.Type())
	if err != nil {
		return err
	}
	return d.SetConfig(&base.Config{PluginConfig: encoded,
		AgentConfig: &base.AgentConfig{Driver: &base.ClientDriverConfig{}}})
}

// start times one StartTask and then removes the container.
func (c candidate) start(ctx context.Context, dir string) (time.Duration, error) {
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	cfg, err := c.task(dir)
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(cfg.AllocDir)
	began := time.Now()
	_, _, err = c.driver.StartTask(cfg)
	took := time.Since(began)
	if err != nil {
		return 0, err
	}
	return took, c.driver.DestroyTask(cfg.ID, true)
}

func (c candidate) task(dir string) (*drivers.TaskConfig, error) {
	schema, err := c.driver.TaskConfigSchema()
	if err != nil {
		return nil, err
	}
	value, err := decode(schema, c.config)
	if err != nil {
		return nil, err
	}
	alloc := uuid.Generate()
	cfg := &drivers.TaskConfig{
		ID: alloc + "/task/" + uuid.Short(), AllocID: alloc, Name: "task", AllocDir: filepath.Join(dir, alloc),
		StdoutPath: os.DevNull, StderrPath: os.DevNull, DeviceEnv: c.grant,
		Env: map[string]string{"NOMAD_ALLOC_DIR": "/alloc", "NOMAD_TASK_DIR": "/local",
			"NOMAD_SECRETS_DIR": "/secrets"},
		Resources: &drivers.Resources{
			NomadResources: &structs.AllocatedTaskResources{Memory: structs.AllocatedMemoryResources{MemoryMB: 64}},
			LinuxResources: &drivers.LinuxResources{CPUShares: 100, MemoryLimitBytes: 64 << 20},
		},
	}
	for k, v := range c.grant {
		cfg.Env[k] = v
	}
	for _, d := range []string{"alloc", "task/local", "task/secrets"} {
		if err := os.MkdirAll(filepath.Join(cfg.AllocDir, d), 0o755); err != nil {
			return nil, err
		}
	}
	return cfg, cfg.EncodeDriverConfig(value)
}
