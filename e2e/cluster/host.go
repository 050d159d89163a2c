package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Host is an installed Linux system on which the client agent, its plugins and raw_exec tasks run.
// They see its programs, libraries and files. They share this host's kernel, network and docker
// engine.
type Host struct {
	// Archive is a tar archive of the root file system, such as scripts/debian-root makes.
	Archive string
	// Packages are Debian packages to install before the agent starts.
	Packages []string
}

// inside starts a program on the host in a mount namespace whose root is the host's. A chroot would
// not do, since the kernel gives programs in it other paths of files. The mounts end with the
// program, except for mounts below the cluster's directory, such as those of tasks' secrets, which
// everybody sees.
const inside = `set -e
root=$1 dir=$2 tools=$3 path=$4
shift 4
mount -t proc proc "$root/proc"
for tree in /sys /dev; do
  mount --rbind "$tree" "$root$tree"
  mount --make-rslave "$root$tree"
done
mkdir -p "$root/run" "$root$dir" "$root$tools"
: >>"$root/run/docker.sock"
mount --bind /var/run/docker.sock "$root/run/docker.sock"
mount --bind "$dir" "$root$dir"
mount --bind "$tools" "$root$tools"
mount --make-private "$dir" # this name of it goes; pivot_root wants no peers above the root
mkdir -p "$root/mnt/old"
cd "$root"
pivot_root . mnt/old
exec chroot . /bin/sh -c 'umount -l /mnt/old; PATH=$1; export PATH; shift; exec "$@"' inside "$path" "$@"
`

// pathOnHost is the PATH of a service on the host.
const pathOnHost = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// hostArgs returns the command line that runs a program on the host.
func (c *Cluster) hostArgs(path string, args ...string) []string {
	search := pathOnHost
	if c.Rack != nil { // the MPS control program comes with the driver
		search = c.Rack.Path + ".bin:" + c.tools.Bin + ":" + search
	}
	words := []string{"--mount", "--propagation", "unchanged", "sh", "-c", inside, "inside",
		c.path("host"), c.Dir, filepath.Join(c.bin, "e2e", "rack"), search, path}
	return append(words, args...)
}

// OnHost runs a command on the cluster's host, as its administrator would, and returns its output.
func (c *Cluster) OnHost(ctx context.Context, env []string, path string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "unshare", c.hostArgs(path, args...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/root", "DEBIAN_FRONTEND=noninteractive", c.Mark()},
		env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s on the host: %w: %s", path, err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// OnHostPath returns the path, from outside, of a file on the host.
func (c *Cluster) OnHostPath(path string) string { return filepath.Join(c.path("host"), path) }

// Install copies Debian packages to the host and installs them.
func (c *Cluster) Install(ctx context.Context, packages ...string) error {
	var there []string
	for _, path := range packages {
		name := "/tmp/" + filepath.Base(path)
		if err := copyFile(path, c.OnHostPath(name), 0o644); err != nil {
			return err
		}
		there = append(there, name)
	}
	_, err := c.OnHost(ctx, nil, "dpkg", append([]string{"-i"}, there...)...)
	for _, name := range there {
		err = errors.Join(err, os.Remove(c.OnHostPath(name)))
	}
	return err
}

// furnishHost unpacks the host's root and installs Nomad and the packages.
func (c *Cluster) furnishHost(ctx context.Context) error {
	h := c.options.Host
	if h == nil {
		return nil
	}
	root := c.path("host")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	// Mounts made later below the directory must reach the docker engine, but those of the host's
	// root must not.
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
	}{
		{c.Dir, c.Dir, "", syscall.MS_BIND}, {"", c.Dir, "", syscall.MS_SHARED},
		{"host", root, "tmpfs", 0}, {"", root, "", syscall.MS_PRIVATE},
	} {
		if err := syscall.Mount(m.source, m.target, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if out, err := exec.CommandContext(ctx, "tar", "-C", root, "-xf", h.Archive).CombinedOutput(); err != nil {
		return fmt.Errorf("tar: %w: %s", err, out)
	}
	for _, dir := range []string{"proc", "sys", "dev"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	path, err := c.tool(ctx, "nomad")
	if err != nil {
		return err
	}
	if err := copyFile(path, c.OnHostPath("/usr/bin/nomad"), 0o755); err != nil {
		return err
	}
	return c.Install(ctx, h.Packages...)
}

// copyFile replaces a file with a copy of another, as a package manager does: programs that run
// from the old file keep it.
func copyFile(from, to string, mode os.FileMode) error {
	body, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to+".new", body, mode); err != nil {
		return err
	}
	return os.Rename(to+".new", to)
}

// pluginDir returns the folder in which the client agent looks for plugins: on a host, the folder
// that packages use.
func (c *Cluster) pluginDir() string {
	if c.options.Host != nil {
		return "/opt/nomad/data/plugins"
	}
	return c.path("plugins")
}

// Put replaces a file on the host with a file of this machine, as a package manager does.
func (c *Cluster) Put(from, to string) error { return copyFile(from, c.OnHostPath(to), 0o755) }
