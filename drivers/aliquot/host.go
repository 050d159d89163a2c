package aliquot

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/hashicorp/nomad/plugins/drivers"

	machine "aliquot.example/internal/host"
)

// host is the root directory of the machine: "/", or a tree like it.
type host string

func (h host) root() machine.Root { return machine.Root(h) }

func (h host) path(p ...string) string { return h.root().Path(p...) }

func (h host) exists(p ...string) bool { return h.root().Exists(p...) }

// node returns the device node at path, at the same path in the container. It
// fails when the host has none.
func (h host) node(path string) (*drivers.DeviceConfig, error) {
	if err := h.root().Device(path); err != nil {
		return nil, err
	}
	return &drivers.DeviceConfig{HostPath: h.path(path), TaskPath: path, Permissions: "rw"}, nil
}

// nodes is like node for several paths. It omits duplicates.
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
