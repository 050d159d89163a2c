package node

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// unit is the systemd unit in which packages are changed. With a fixed name, a new agent cannot
// change packages while the unit of an earlier one still runs.
const unit = "aliquot-node-packages.service"

// outside runs a program that changes packages. On a host with systemd, the program runs in a
// separate unit: configuring packages compiles modules, which needs more memory than the agent's
// job may have, and the program must not end with the agent. On other hosts it is a child of the
// agent.
func (a apt) outside(ctx context.Context, name string, args ...string) (string, error) {
	if !a.root.Exists("/run/systemd/system") || a.root.Program("systemd-run") == "" {
		return a.root.Output(ctx, name, args...)
	}
	path := a.root.Program(name)
	if path == "" {
		return a.root.Output(ctx, name, args...) // its error says that the program is missing
	}
	if err := a.unitEnded(ctx); err != nil {
		return "", err
	}
	like, err := a.root.Command(ctx, name)
	if err != nil {
		return "", err
	}
	run := []string{"--quiet", "--wait", "--pipe", "--collect", "--unit=" + unit,
		"--description=GPU driver packages of aliquot node"}
	for _, variable := range like.Env {
		run = append(run, "--setenv="+variable)
	}
	out, err := a.root.Output(ctx, "systemd-run", append(append(run, "--", path), args...)...)
	if ctx.Err() != nil {
		err = errors.Join(err, a.endUnit(ctx)) // the unit survives the end of systemd-run
	}
	return out, err
}

// endUnit stops an installation that takes too long.
func (a apt) endUnit(ctx context.Context) error {
	a.log.Warn("stopping an installation that takes too long", "unit", unit)
	ctx, cancel := withTimeout(context.WithoutCancel(ctx), hostTimeout)
	defer cancel()
	_, err := a.root.Output(ctx, "systemctl", "stop", unit)
	return err
}

// unitEnded waits for the end of an installation that an earlier agent has started.
func (a apt) unitEnded(ctx context.Context) error {
	for logged := false; ; logged = true {
		if _, err := a.root.Output(ctx, "systemctl", "is-active", "--quiet", unit); err != nil && ctx.Err() == nil {
			return nil // it does not run or does not exist
		}
		if !logged {
			a.log.Info("waiting for the installation of an earlier agent", "unit", unit)
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("unit %s: %w", unit, context.Cause(ctx)), a.endUnit(ctx))
		case <-time.After(a.poll()):
		}
	}
}

// poll returns the pause between two checks of the unit.
func (a apt) poll() time.Duration {
	if a.pollInterval > 0 {
		return a.pollInterval
	}
	return 5 * time.Second
}
