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

// kernel loads another driver into the kernel of a host, or reboots the host. It never forces a
// module to unload.
type kernel struct {
	root  host.Root
	maker driver.Maker
	// marker is the file that makes device plugins release the driver; stopped is the file with the
	// names of stopped services. Both are below the root.
	marker, stopped string
}

// release makes the device plugin release the driver, and stops the driver's services that have the
// device open.
func (k kernel) release(ctx context.Context) error {
	marker := k.root.Path(k.marker)
	if err := os.MkdirAll(filepath.Dir(marker), 0o755); err != nil {
		return fmt.Errorf("run_dir: %w", err)
	}
	if err := os.WriteFile(marker,
		[]byte("aliquot node is changing the driver; the device plugin does not use it while this file exists\n"),
		0o644); err != nil {
		return fmt.Errorf("run_dir: %w", err)
	}
	stopped, err := k.list()
	if err != nil {
		return err
	}
	for _, service := range k.maker.Services {
		if _, err := k.root.Output(ctx, "systemctl", "is-active", "--quiet", service); err != nil {
			continue // it does not run or does not exist
		}
		if !slices.Contains(stopped, service) {
			stopped = append(stopped, service)
		}
		text, err := json.Marshal(stopped)
		if err != nil {
			return err
		}
		// Written before the service is stopped, so that resume starts it again in any case.
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

// resume starts the services that release has stopped, and lets the device plugin use the driver,
// even if a service does not start: the plugin then reports what is wrong with the GPUs.
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

// reload unloads the driver's modules, if nothing uses any of them, and loads those on disk.
func (k kernel) reload(ctx context.Context) error {
	if len(k.maker.Unload) == 0 {
		return fmt.Errorf("module %s cannot be unloaded safely: reboot instead", k.maker.Module)
	}
	var loaded []string
	for _, module := range k.maker.Unload {
		if !k.root.Exists("/sys/module", module) {
			continue
		}
		loaded = append(loaded, module)
		uses, err := k.root.Number("/sys/module", module, "refcnt")
		if err != nil {
			return fmt.Errorf("module %s: cannot read its reference count: %w", module, err)
		}
		// Dependent modules of the driver are unloaded first. Any other use prevents the reload.
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
			return fmt.Errorf("module %s cannot be unloaded: %w", module, err)
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

// reboot requests an orderly reboot, which stops services first.
func (k kernel) reboot(ctx context.Context) error {
	unix.Sync() // without this, machines have come back with truncated files
	_, err := k.root.Output(ctx, "systemctl", "reboot")
	if errors.Is(err, host.ErrNoProgram) {
		_, err = k.root.Output(ctx, "reboot")
	}
	if err != nil {
		return fmt.Errorf("the machine cannot be rebooted: %w", err)
	}
	return nil
}
