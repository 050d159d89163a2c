package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"aliquot.example/internal/driver"
	"aliquot.example/internal/host"
)

// kernel loads another driver into the kernel of a host, or reboots it. Nothing is ever
// forced: what cannot be taken out stays.
type kernel struct {
	root  host.Root
	maker driver.Maker
	// marker is the file by which device plugins are asked to let go of the driver;
	// stopped keeps the names of the services that were stopped. Both are below the root.
	marker, stopped string
}

// release stops what belongs to the driver and has the device open.
func (k kernel) release(ctx context.Context) error {
	marker := k.root.Path(k.marker)
	if err := os.MkdirAll(filepath.Dir(marker), 0o755); err != nil {
		return fmt.Errorf("run_dir: %w", err)
	}
	if err := os.WriteFile(marker,
		[]byte("aliquot node changes the driver; the plugin lets go of it until this file is gone\n"),
		0o644); err != nil {
		return fmt.Errorf("run_dir: %w", err)
	}
	stopped, err := k.list()
	if err != nil {
		return err
	}
	for _, service := range k.maker.Services {
		if _, err := k.root.Output(ctx, "systemctl", "is-active", "--quiet", service); err != nil {
			continue // it does not run, or is not there
		}
		if !slices.Contains(stopped, service) {
			stopped = append(stopped, service)
		}
		text, err := json.Marshal(stopped)
		if err != nil {
			return err
		}
		// Written before it is stopped, so that it is started again in any case.
		if err := writeWhole(k.root.Path(k.stopped), text); err != nil {
			return err
		}
		if _, err := k.root.Output(ctx, "systemctl", "stop", service); err != nil {
			return fmt.Errorf("service %s cannot be stopped: %w", service, err)
		}
	}
	return nil
}

func (k kernel) list() (services []string, err error) {
	text, err := os.ReadFile(k.root.Path(k.stopped))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &services)
	}
	return services, err
}

// resume starts again what release stopped, and lets the device plugin go on, though a
// service does not start: the plugin says itself what its GPUs lack then.
func (k kernel) resume(ctx context.Context) error {
	services, err := k.list()
	for _, service := range services {
		if _, failed := k.root.Output(ctx, "systemctl", "start", service); failed != nil {
			err = errors.Join(err, fmt.Errorf("service %s cannot be started: %w", service, failed))
		}
	}
	gone := []string{k.marker}
	if err == nil {
		gone = append(gone, k.stopped)
	}
	for _, path := range gone {
		if failed := os.Remove(k.root.Path(path)); failed != nil && !errors.Is(failed, os.ErrNotExist) {
			err = errors.Join(err, failed)
		}
	}
	return err
}

// reload takes the driver's modules out, if nobody uses any of them, and loads the one on
// disk.
func (k kernel) reload(ctx context.Context) error {
	if len(k.maker.Unload) == 0 {
		return fmt.Errorf("%s is not taken out of a running kernel", k.maker.Module)
	}
	var loaded []string
	for _, module := range k.maker.Unload {
		if !k.root.Exists("/sys/module", module) {
			continue
		}
		loaded = append(loaded, module)
		uses, err := k.root.Number("/sys/module", module, "refcnt")
		if err != nil {
			return fmt.Errorf("module %s: its uses are not known: %w", module, err)
		}
		// Modules on top of it are taken out before; whoever else uses it stays.
		tops := k.root.Names("/sys/module", module, "holders")
		for _, top := range tops {
			if !slices.Contains(k.maker.Unload, top) {
				return fmt.Errorf("module %s is used by module %s", module, top)
			}
		}
		if int(uses) > len(tops) {
			return fmt.Errorf("module %s is in use %d times", module, int(uses)-len(tops))
		}
	}
	for _, module := range loaded {
		if _, err := k.root.Output(ctx, "rmmod", module); err != nil {
			return fmt.Errorf("module %s cannot be taken out: %w", module, err)
		}
	}
	slices.Reverse(loaded)
	for _, module := range append([]string{k.maker.Module}, loaded...) {
		if _, err := k.root.Output(ctx, "modprobe", module); err != nil {
			return fmt.Errorf("module %s cannot be loaded: %w", module, err)
		}
	}
	return nil
}

// reboot asks for an orderly reboot, which stops services in order.
func (k kernel) reboot(ctx context.Context) error {
	unix.Sync() // machines were seen to come back with truncated files
	_, err := k.root.Output(ctx, "systemctl", "reboot")
	if errors.Is(err, host.ErrNoProgram) {
		_, err = k.root.Output(ctx, "reboot")
	}
	if err != nil {
		return fmt.Errorf("the machine cannot be rebooted: %w", err)
	}
	return nil
}
