package node

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// unit is the name of the unit in which systemd changes packages for the agent. One name
// keeps two agents, one after the other, from doing so at once.
const unit = "aliquot-node-packages.service"

// outside runs a program that changes packages. Where systemd runs the host, it runs there
// in a unit of its own: modules are compiled while packages are configured, which needs
// more memory than the agent's job may have, and the end of the agent must not end it
// halfway. Elsewhere it runs as the agent's child.
func (a apt) outside(ctx context.Context, name string, args ...string) (string, error) {
	if !a.root.Exists("/run/systemd/system") || a.root.Program("systemd-run") == "" {
		return a.root.Output(ctx, name, args...)
	}
	path := a.root.Program(name)
	if path == "" {
		return a.root.Output(ctx, name, args...) // which says so
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
		err = errors.Join(err, a.endUnit(ctx)) // systemd-run was ended, and not what it started
	}
	return out, err
}

// endUnit ends an installation that took too long.
func (a apt) endUnit(ctx context.Context) error {
	a.log.Warn("an installation took too long and is ended", "unit", unit)
	ctx, cancel := within(context.WithoutCancel(ctx), hostLimit)
	defer cancel()
	_, err := a.root.Output(ctx, "systemctl", "stop", unit)
	return err
}

// unitEnded waits for what an agent before this one began.
func (a apt) unitEnded(ctx context.Context) error {
	for said := false; ; said = true {
		if _, err := a.root.Output(ctx, "systemctl", "is-active", "--quiet", unit); err != nil && ctx.Err() == nil {
			return nil // it does not run, or is not there
		}
		if !said {
			a.log.Info("waiting for an installation that an agent before this one began", "unit", unit)
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("unit %s: %w", unit, context.Cause(ctx)), a.endUnit(ctx))
		case <-time.After(a.poll()):
		}
	}
}

// poll is how long to wait between two looks at the unit.
func (a apt) poll() time.Duration {
	if a.every > 0 {
		return a.every
	}
	return 5 * time.Second
}
