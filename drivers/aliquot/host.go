package aliquot

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/hashicorp/nomad/plugins/drivers"
)

// host is the machine as a directory: "/" or a tree that looks like it.
type host string

func (h host) path(p ...string) string { return filepath.Join(append([]string{string(h)}, p...)...) }

func (h host) exists(p ...string) bool {
	_, err := os.Stat(h.path(p...))
	return err == nil
}

// node returns the device node at path, at the same path in the container. It
// fails when the host has none.
func (h host) node(path string) (*drivers.DeviceConfig, error) {
	if _, err := os.Stat(h.path(path)); err != nil {
		return nil, fmt.Errorf("device node %s is missing on the host: %w", path, err)
	}
	return &drivers.DeviceConfig{HostPath: h.path(path), TaskPath: path, Permissions: "rw"}, nil
}

// nodes is node for several paths without repeating one.
func (h host) nodes(paths []string) ([]*drivers.DeviceConfig, error) {
	var out []*drivers.DeviceConfig
	for i, p := range paths {
		if slices.Contains(paths[:i], p) {
			continue
		}
		n, err := h.node(p)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}

// gids returns the groups that own the nodes and the host's groups of the given
// names, so that a task that is not root can open the nodes. Root's group is
// left out.
func (h host) gids(nodes []*drivers.DeviceConfig, names ...string) []string {
	var out []string
	add := func(gid string) {
		if gid != "0" && !slices.Contains(out, gid) {
			out = append(out, gid)
		}
	}
	for _, n := range nodes {
		if info, err := os.Stat(n.HostPath); err == nil {
			if stat, ok := info.Sys().(*syscall.Stat_t); ok {
				add(strconv.FormatUint(uint64(stat.Gid), 10))
			}
		}
	}
	groups, err := os.ReadFile(h.path("etc/group"))
	if err != nil {
		return out
	}
	for line := range strings.Lines(string(groups)) {
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) >= 3 && slices.Contains(names, f[0]) {
			add(f[2])
		}
	}
	return out
}

// field returns the value of "name: value" in a file of the host.
func (h host) field(path, name string) (string, error) {
	content, err := os.ReadFile(h.path(path))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(content)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("%s has no field %q", h.path(path), name)
}

// number is field for a decimal number.
func (h host) number(path, name string) (int, error) {
	value, err := h.field(path, name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s: field %q is %q, want a number", h.path(path), name, value)
	}
	return n, nil
}
