package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"aliquot.example/internal/driver"
	"aliquot.example/internal/gpu"
	"aliquot.example/internal/host"
	"aliquot.example/internal/host/inventory"
)

// apt installs packages on a host with the host's apt and dpkg. It never forces what these refuse.
type apt struct {
	root host.Root
	// dir is the directory for downloaded packages, including those for a rollback, below the root.
	dir string
	log *slog.Logger
	// pollInterval is the pause between two checks for another installation; 0 for 5 s.
	pollInterval time.Duration
}

// options returns the options of every apt-get call that changes something. Modified configuration
// files stay. The options ignore holds, because all packages of the driver are held between
// changes; simulate prevents changes of other packages.
func (a apt) options() []string {
	return []string{"-q", "-y", "--no-install-recommends", "--allow-downgrades", "--allow-change-held-packages",
		"--ignore-hold",
		"-o", "Dir::Cache::archives=" + a.dir, "-o", "APT::Keep-Downloaded-Packages=true",
		"-o", "APT::Sandbox::User=root",
		"-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Options::=--force-confdef",
		"-o", "Dpkg::Options::=--force-confold",
		"-o", "Dpkg::Use-Pty=0"}
}

// asked returns the planned packages as arguments of apt-get.
func asked(p driver.Plan) []string {
	var out []string
	for _, pin := range p.Install {
		out = append(out, pin.String())
	}
	for _, name := range p.Remove {
		out = append(out, name+"-")
	}
	return out
}

func (a apt) get(verb string, args ...string) []string {
	return append(append([]string{verb}, a.options()...), args...)
}

// planned runs apt-get with the plan and an option with which it changes no package.
func (a apt) planned(ctx context.Context, p driver.Plan, args ...string) (string, error) {
	args, err := a.arguments(p, args...)
	if err != nil {
		return "", err
	}
	return a.root.Output(ctx, "apt-get", args...)
}

// arguments returns apt-get's arguments for installing the plan's packages, with preferences for
// their dependencies.
func (a apt) arguments(p driver.Plan, args ...string) ([]string, error) {
	// The file replaces the administrator's preferences, so it contains them.
	own := a.root.TextOr("", "/etc/apt/preferences")
	path := filepath.Join(a.dir, "preferences")
	if err := os.WriteFile(a.root.Path(path), []byte(driver.Preferences(p)+own+"\n"), 0o644); err != nil {
		return nil, fmt.Errorf("cannot write the folder for packages: %w", err)
	}
	args = append([]string{"-o", "Dir::Etc::Preferences=" + path}, args...)
	return a.get("install", append(args, asked(p)...)...), nil
}

// fetch downloads all packages that the plan and a rollback need. It changes only its directory.
func (a apt) fetch(ctx context.Context, s driver.State) error {
	if err := os.MkdirAll(filepath.Join(a.root.Path(a.dir), "partial"), 0o755); err != nil {
		return fmt.Errorf("cannot write the folder for packages: %w", err)
	}
	if err := a.simulate(ctx, s.Plan); err != nil {
		return err
	}
	if err := a.room(ctx, s.Plan); err != nil {
		return err
	}
	for _, pin := range s.From {
		if a.file(pin) != "" {
			continue
		}
		if err := a.download(ctx, pin); err != nil && !s.Want.AllowNoRollback {
			return fmt.Errorf("the installed package %s cannot be downloaded, so a rollback would "+
				"not be possible (%w): put its file into %s, or set allow_no_rollback", pin, err,
				a.root.Path(a.dir))
		}
	}
	if _, err := a.planned(ctx, s.Plan, "--download-only"); err != nil {
		return fmt.Errorf("cannot download the packages: %w", err)
	}
	// apt-get leaves packages of a source on the host's disk where they are. Copy these, too,
	// because the next change needs them for a rollback.
	for _, pin := range s.Plan.Install {
		if a.file(pin) == "" {
			if err := a.download(ctx, pin); err != nil {
				return fmt.Errorf("cannot download the packages: %w", err)
			}
		}
	}
	return nil
}

// simulate checks that apt would change what the plan says, and nothing else.
func (a apt) simulate(ctx context.Context, p driver.Plan) error {
	simulated, err := a.planned(ctx, p, "-s")
	if err != nil {
		return fmt.Errorf("apt cannot install the planned packages: %w", err)
	}
	if refusal := driver.CheckSimulation(simulated, p.Vendor); refusal != nil {
		return refusal
	}
	return nil
}

func (a apt) download(ctx context.Context, pin driver.Pin) error {
	cmd, err := a.root.Command(ctx, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", pin.String())
	if err != nil {
		return err
	}
	cmd.Dir = a.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get download: %w: %s", err, lastLine(out))
	}
	return nil
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// file returns the file of a downloaded package, as a path below the root, or "" if it is missing.
func (a apt) file(p driver.Pin) string {
	name := p.Name + "_" + strings.ReplaceAll(p.Version, ":", "%3a") + "_"
	for _, entry := range a.root.Names(a.dir) {
		if strings.HasPrefix(entry, name) && strings.HasSuffix(entry, ".deb") {
			return filepath.Join(a.dir, entry)
		}
	}
	return ""
}

// unpacked is the disk space that an installation needs, as a multiple of the packages' size:
// packed, unpacked beside the former ones, and modules during compilation.
const unpacked = 6

// room checks that the disks have room for an installation, because dpkg would fail in the middle.
func (a apt) room(ctx context.Context, p driver.Plan) error {
	list, err := a.planned(ctx, p, "--print-uris")
	if err != nil {
		return fmt.Errorf("cannot determine the size of the packages: %w", err)
	}
	var need uint64
	for line := range strings.Lines(list) {
		// 'uri' file size digest
		if fields := strings.Fields(line); len(fields) >= 3 && strings.HasPrefix(line, "'") {
			size, _ := strconv.ParseUint(fields[2], 10, 64)
			need += size * unpacked
		}
	}
	for _, dir := range []string{a.dir, "/usr", "/var/lib", "/boot"} {
		if dir == "/boot" {
			need = a.bootRoom()
		}
		var fs unix.Statfs_t
		if err := unix.Statfs(a.root.Path(dir), &fs); err != nil {
			continue
		}
		if free := fs.Bavail * uint64(fs.Bsize); free < need {
			return fmt.Errorf("%s has %d MiB free, but the installation needs up to %d MiB: free some space",
				a.root.Path(dir), free>>20, (need>>20)+1)
		}
	}
	return nil
}

// bootRoom returns the space that a new initrd needs in /boot, which is often a small separate file
// system: a file beside the present one, and a copy of that, which DKMS makes.
func (a apt) bootRoom() uint64 {
	var largest int64
	for _, name := range a.root.Names("/boot") {
		if info, err := os.Stat(a.root.Path("/boot", name)); err == nil && strings.HasPrefix(name, "initrd") {
			largest = max(largest, info.Size())
		}
	}
	return 2 * uint64(largest)
}

// install installs the planned packages, after it has completed an interrupted installation.
func (a apt) install(ctx context.Context, p driver.Plan) error {
	_, unfinished := a.outside(ctx, "dpkg", "--configure", "-a")
	// The package lists may have changed since the packages were fetched.
	if err := a.simulate(ctx, p); err != nil {
		return errors.Join(err, unfinished)
	}
	args, err := a.arguments(p)
	if err != nil {
		return err
	}
	if out, err := a.outside(ctx, "apt-get", args...); err != nil {
		a.logOutput(out)
		return errors.Join(fmt.Errorf("cannot install the packages: %w", err), unfinished)
	}
	return nil
}

// logOutput logs the end of apt-get's output, which contains the reason of a failure.
func (a apt) logOutput(out string) {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	for _, line := range lines[max(0, len(lines)-15):] {
		a.log.Info("apt-get: " + line)
	}
}

// restore installs the former packages from their files, and removes packages of the driver that
// were not installed before.
func (a apt) restore(ctx context.Context, from []driver.Pin, now []driver.Package) error {
	_, _ = a.outside(ctx, "dpkg", "--configure", "-a") // packages that it cannot repair are replaced below
	var files, gone, args []string
	before := map[string]bool{}
	for _, pin := range from {
		before[pin.Name] = true
		file := a.file(pin)
		if file == "" {
			return fmt.Errorf("the package file of %s is missing in %s", pin, a.root.Path(a.dir))
		}
		files = append(files, file)
	}
	args = append(args, files...)
	for _, p := range now {
		if !before[p.Name] {
			gone = append(gone, p.Name)
			args = append(args, p.Name+"-")
		}
	}
	if len(args) == 0 {
		return nil
	}
	out, err := a.outside(ctx, "apt-get", a.get("install", args...)...)
	if err == nil {
		return nil
	}
	a.logOutput(out)
	a.log.Warn("apt-get cannot restore the former packages, trying dpkg", "error", err)
	return a.byDpkg(ctx, files, gone)
}

// byDpkg restores the former packages if apt-get refuses the present state of the packages.
func (a apt) byDpkg(ctx context.Context, files, gone []string) error {
	var errs []error
	if len(gone) > 0 {
		_, err := a.outside(ctx, "dpkg", append([]string{"--remove"}, gone...)...)
		errs = append(errs, err)
	}
	if len(files) > 0 {
		_, err := a.outside(ctx, "dpkg", append([]string{"--force-confdef", "--force-confold", "--install"},
			files...)...)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// hold excludes all packages of a driver from upgrades.
func (a apt) hold(ctx context.Context, v gpu.Vendor) error {
	facts, err := inventory.Read(ctx, a.root, false)
	if err != nil {
		return err
	}
	args := []string{"hold"}
	for _, p := range facts.DriverPackages(v) {
		args = append(args, p.Name)
	}
	if len(args) == 1 {
		return nil
	}
	if _, err := a.root.Output(ctx, "apt-mark", args...); err != nil {
		return fmt.Errorf("cannot hold the driver's packages: %w", err)
	}
	return nil
}
