package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	kernel "aliquot.example/internal/host/nvidia"
)

// groupLimit limits a cgroup to half of a grant and returns how much memory a client in the cgroup
// gets, when MPS alone would allow the whole grant.
func (l testbed) groupLimit(ctx context.Context) (string, error) {
	r, env, err := l.reserved(10)
	if err != nil {
		return "", err
	}
	group, err := controlGroup()
	if err != nil {
		return "", err
	}
	defer os.Remove(group)
	half := uint64(r.grant.Memory.Bytes() / 2)
	set := exec.CommandContext(ctx, l.binary, kernel.HoldMemory, l.root, l.uuid, group, strconv.FormatUint(half, 10))
	out, err := set.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	dir, err := os.MkdirTemp("", "aliquot-gpu-check-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	inside := filepath.Join(dir, "inside")
	script := fmt.Sprintf("#!/bin/sh\necho $$ > %s/cgroup.procs || exit 1\nexec %s \"$@\"\n", group, l.program)
	if err := os.WriteFile(inside, []byte(script), 0o755); err != nil {
		return "", err
	}
	c, err := launch(ctx, inside, env, stepMiB)
	if err != nil {
		return "", err
	}
	got, grant, limit := c.number("allocated_mib"), int(r.grant.Memory), int(half>>20)
	verdict := "it does not hold"
	if got <= limit {
		verdict = "it holds"
	}
	return fmt.Sprintf("%s: %d MiB were allocated under a limit of %d MiB and a grant of %d MiB", verdict, got, limit,
		grant), c.close()
}

// controlGroup creates a cgroup of version 2.
func controlGroup() (string, error) {
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(mount, "cgroup.controllers")); err != nil {
			continue
		}
		// If the kernel has the controller, it must be enabled for child groups.
		_ = os.WriteFile(filepath.Join(mount, "cgroup.subtree_control"), []byte("+dmem"), 0o644)
		group := filepath.Join(mount, "aliquot-gpu-check-"+strconv.Itoa(os.Getpid()))
		return group, os.Mkdir(group, 0o755)
	}
	return "", errors.New("this host has no control groups of the second version")
}
