// Package debian provides hosts that run Debian, for tests of driver upgrades: a root file system
// with the real apt, dpkg, kmod and so on, and stand-ins for the kernel. /proc and /sys are plain
// files; modprobe, rmmod and systemctl are scripts that change them as the kernel and systemd
// would.
package debian

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"aliquot.example/internal/host"
)

// Kernel is the release of the kernel that every host pretends to run.
const Kernel = "6.1.0-56-amd64"

// Host is a host whose root file system is Root.
type Host struct {
	Root host.Root
	// Repository is the package folder that its apt sees at /srv/repository.
	Repository string

	mounts []string
}

// Missing returns why tests cannot create hosts here, or "". It creates the root file system that
// they need, if it does not exist.
func Missing(ctx context.Context, checkout string) string {
	if runtime.GOARCH != "amd64" {
		return "needs an amd64 machine, as the packages are for one"
	}
	if os.Geteuid() != 0 {
		return "needs root, for a Debian root: use make e2e"
	}
	if _, err := exec.LookPath("debootstrap"); err != nil {
		return "needs debootstrap, which makes a Debian root: apt-get install debootstrap"
	}
	for _, program := range []string{"gcc", "dpkg-deb"} {
		if _, err := exec.LookPath(program); err != nil {
			return "needs " + program + ", which makes packages"
		}
	}
	if _, err := archive(ctx, checkout); err != nil {
		return "needs a Debian root: " + err.Error()
	}
	return ""
}

// archive creates the archive of the root file system, once, and returns its path.
func archive(ctx context.Context, checkout string) (string, error) {
	out, err := exec.CommandContext(ctx, filepath.Join(checkout, "scripts/debian-root")).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		lines := strings.Split(strings.TrimSpace(string(exit.Stderr)), "\n")
		return "", errors.New(lines[len(lines)-1])
	}
	return strings.TrimSpace(string(out)), err
}

// base unpacks the root file system from which all hosts are copied, once for each version of the
// archive.
func base(ctx context.Context, checkout string) (string, error) {
	archive, err := archive(ctx, checkout)
	if err != nil {
		return "", err
	}
	dir := strings.TrimSuffix(archive, ".tar")
	lock, err := os.Create(dir + ".lock")
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	tmp := dir + ".new"
	if err := errors.Join(os.RemoveAll(tmp), os.MkdirAll(tmp, 0o755)); err != nil {
		return "", err
	}
	if out, err := exec.CommandContext(ctx, "tar", "-C", tmp, "-xf", archive).CombinedOutput(); err != nil {
		return "", fmt.Errorf("tar: %w: %s", err, out)
	}
	return dir, os.Rename(tmp, dir)
}

// New creates a host in the folder dir. Its root is the folder root in dir, which may already
// contain files. The caller must call Close.
func New(ctx context.Context, checkout, dir string) (*Host, error) {
	lower, err := base(ctx, checkout)
	if err != nil {
		return nil, err
	}
	root := filepath.Join(dir, "root")
	h := &Host{Root: host.Root(root), Repository: filepath.Join(dir, "repository")}
	if err := os.MkdirAll(h.Repository, 0o755); err != nil {
		return nil, err
	}
	if err := h.inMemory(root); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	// Each host has a copy, because an overlay cannot be mounted on an overlay on every system.
	if out, err := exec.CommandContext(ctx, "cp", "-a", "--no-clobber", lower+"/.", root).CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("cp: %w: %s", err, out), h.Close())
	}
	if err := h.furnish(); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// inMemory moves the root and its files into memory, because apt and dpkg sync every file to disk.
func (h *Host) inMemory(root string) error {
	was := root + ".was"
	if err := os.Rename(root, was); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("host", root, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	h.mounts = append([]string{}, root)
	if _, err := os.Stat(was); err != nil {
		return nil
	}
	if out, err := exec.Command("cp", "-a", was+"/.", root).CombinedOutput(); err != nil {
		return fmt.Errorf("cp: %w: %s", err, out)
	}
	return nil
}

// Close removes what the host has created outside of its folder.
func (h *Host) Close() error {
	var errs []error
	for _, at := range h.mounts {
		errs = append(errs, unix.Unmount(at, 0))
	}
	h.mounts = nil
	return errors.Join(errs...)
}

// furnish adds what a minimal root file system lacks.
func (h *Host) furnish() error {
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "random": 8, "urandom": 9} {
		path := h.Root.Path("dev", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil &&
			!errors.Is(err, os.ErrExist) {
			return err
		}
		if err := os.Chmod(path, 0o666); err != nil {
			return err
		}
	}
	at := h.Root.Path("srv/repository")
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(h.Repository, at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	h.mounts = append([]string{at}, h.mounts...)
	for name, text := range map[string]string{
		"etc/apt/sources.list":                         "deb [trusted=yes] copy:///srv/repository ./\n",
		"proc/sys/kernel/osrelease":                    Kernel + "\n",
		"etc/dpkg/dpkg.cfg.d/fast":                     "force-unsafe-io\n", // nothing has to survive a crash
		"usr/local/sbin/modprobe":                      modprobe,
		"usr/local/sbin/rmmod":                         rmmod,
		"usr/local/sbin/systemctl":                     systemctl,
		"usr/sbin/policy-rc.d":                         "#!/bin/sh\nexit 101\n",
		"var/lib/services/running":                     "nvidia-persistenced\n",
		"etc/apt/apt.conf.d/99nothing":                 "Acquire::Languages \"none\";\n",
		"usr/lib/modules/" + Kernel + "/modules.order": "", "usr/lib/modules/" + Kernel + "/modules.builtin": "",
	} {
		if err := h.Write(name, text); err != nil {
			return err
		}
	}
	return h.newBoot()
}

// Write writes a file on the host. Scripts become executable.
func (h *Host) Write(name, text string) error {
	path := h.Root.Path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	if strings.HasPrefix(text, "#!") {
		mode = 0o755
	}
	return os.WriteFile(path, []byte(text), mode)
}

func (h *Host) newBoot() error { return h.Write("proc/sys/kernel/random/boot_id", rand.Text()+"\n") }

// Run runs a program on the host.
func (h *Host) Run(ctx context.Context, name string, args ...string) (string, error) {
	return h.Root.Output(ctx, name, args...)
}

// GPU adds an NVIDIA GPU to the host's PCI bus.
func (h *Host) GPU(address string, device uint16) error {
	for file, value := range map[string]uint32{"vendor": 0x10de, "device": uint32(device), "class": 0x030200} {
		if err := h.Write("sys/bus/pci/devices/"+address+"/"+file, fmt.Sprintf("0x%04x\n", value)); err != nil {
			return err
		}
	}
	return nil
}

// Boot loads the driver that is on disk, as the kernel does at boot.
func (h *Host) Boot(ctx context.Context) error {
	if err := errors.Join(os.RemoveAll(h.Root.Path("sys/module")), os.RemoveAll(h.Root.Path("run")),
		os.MkdirAll(h.Root.Path("run"), 0o755), h.newBoot()); err != nil {
		return err
	}
	// Without a driver on disk, modprobe fails and none is loaded.
	_, _ = h.Run(ctx, "modprobe", "nvidia")
	return nil
}

// RebootAsked reports whether a program has requested a reboot since the last boot.
func (h *Host) RebootAsked() bool { return h.Root.Exists("run/reboot-asked") }

// Loaded returns the version of the loaded driver, or "".
func (h *Host) Loaded() string { return h.Root.TextOr("", "sys/module/nvidia/version") }

// Asked returns the calls of the stand-ins, one per line.
func (h *Host) Asked() string { return h.Root.TextOr("", "var/log/asked") }

// Small mounts a separate file system of the given size at a folder of the host.
func (h *Host) Small(name string, bytes int) error {
	at := h.Root.Path(name)
	kept := at + ".kept"
	if err := errors.Join(os.MkdirAll(at, 0o755), exec.Command("cp", "-a", at, kept).Run()); err != nil {
		return err
	}
	if err := unix.Mount("small", at, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	h.mounts = append([]string{at}, h.mounts...)
	return exec.Command("cp", "-a", kept+"/.", at).Run()
}

const (
	log = `echo "$(basename "$0") $*" >>/var/log/asked
`
	// The module's file has another name than the module, as in Debian.
	modprobe = `#!/bin/sh
` + log + `case $1 in
nvidia) ;;
*) mkdir -p "/sys/module/$1"; echo 0 >"/sys/module/$1/refcnt"; exit 0 ;;
esac
version=$(modinfo -k ` + Kernel + ` -F version nvidia-current) || exit 1
[ ! -e /etc/module-fails-$version ] || {
  echo "modprobe: ERROR: could not insert 'nvidia': No such device" >&2; exit 1
}
mkdir -p /sys/module/nvidia /proc/driver/nvidia
echo "$version" >/sys/module/nvidia/version
echo 0 >/sys/module/nvidia/refcnt
echo "NVRM version: NVIDIA UNIX x86_64 Kernel Module  $version  Mon" >/proc/driver/nvidia/version
`
	rmmod = `#!/bin/sh
` + log + `[ ! -e /etc/rmmod-fails ] || { echo "rmmod: ERROR: Module $1 is in use" >&2; exit 1; }
rm -rf "/sys/module/$1"
`
	systemctl = `#!/bin/sh
` + log + `running=/var/lib/services/running
case $1 in
is-active) grep -qx "$3" $running ;;
stop) grep -vx "$2" $running >$running.new; mv $running.new $running ;;
start) [ ! -e "/etc/start-fails-$2" ] || exit 1; echo "$2" >>$running ;;
reboot) [ ! -e /etc/reboot-fails ] || exit 1; touch /run/reboot-asked ;;
esac
`
)
