package node

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"aliquot.example/e2e/debian"
	"aliquot.example/internal/driver"
	"aliquot.example/internal/gpu"
	"aliquot.example/internal/host/inventory"
)

const (
	older = "535.261.03"
	newer = "535.309.01"
	state = "/var/lib/aliquot/node"
)

// rig is a Debian host with one H100 and the older driver, held.
type rig struct {
	*debian.Host
	t *testing.T
	apt
}

func newRig(t *testing.T) *rig {
	t.Helper()
	if missing := debian.Missing(t.Context(), ".."); missing != "" {
		t.Skip(missing)
	}
	h, err := debian.New(t.Context(), "..", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	r := &rig{Host: h, t: t, apt: apt{root: h.Root, dir: state + "/packages", log: slog.New(slog.NewTextHandler(testLog{t}, nil))}}
	r.publish(older)
	r.must(h.GPU("0000:18:00.0", 0x2330))
	_, err = h.Run(t.Context(), "apt-get", "-y", "-q", "-o", "Dpkg::Use-Pty=0", "install", "nvidia-kernel-dkms", "nvidia-smi", "nvidia-cuda-mps")
	r.must(err)
	r.must(r.hold(t.Context(), gpu.NVIDIA))
	r.must(h.Boot(t.Context()))
	r.publish(newer)
	return r
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) publish(version string) {
	r.t.Helper()
	packages, err := debian.Driver(r.t.Context(), version, []byte("a library"))
	r.must(err)
	r.must(r.Publish(r.t.Context(), packages))
}

func (r *rig) facts() driver.Facts {
	r.t.Helper()
	f, err := inventory.Read(r.t.Context(), r.Root, true)
	r.must(err)
	return f
}

// planned is the state of a node that is about to go to the newer driver.
func (r *rig) planned() driver.State {
	r.t.Helper()
	f := r.facts()
	p, refused := driver.Make(f, driver.Want{Version: newer})
	if refused != nil {
		r.t.Fatal(refused)
	}
	s := driver.State{Plan: p, FromVersion: older}
	for _, have := range f.DriverPackages(gpu.NVIDIA) {
		s.From = append(s.From, driver.Pin{Name: have.Name, Version: have.Version})
	}
	return s
}

// has checks which version all packages of the driver have, whole and, if so, held.
func (r *rig) has(version string, held bool) {
	r.t.Helper()
	f := r.facts()
	d := f.Drivers[gpu.NVIDIA]
	if d.OnDisk != version || d.Library != version {
		r.t.Errorf("on disk %s, library %s, want %s", d.OnDisk, d.Library, version)
	}
	list := f.DriverPackages(gpu.NVIDIA)
	if len(list) != 6 {
		r.t.Errorf("%d packages: %+v", len(list), list)
	}
	for _, p := range list {
		if driver.Upstream(p.Version) != version || p.Broken != "" || p.Held != held {
			r.t.Errorf("%+v, want %s, held %v", p, version, held)
		}
	}
}

func TestFactsOfAHost(t *testing.T) {
	r := newRig(t)
	f := r.facts()
	d := f.Drivers[gpu.NVIDIA]
	if f.Kernel != debian.Kernel || f.Distribution.ID != "debian" || f.Arch == "" || len(f.GPUs) != 1 || f.GPUs[0].ID != 0x2330 || f.Container != "" {
		t.Errorf("%+v", f)
	}
	if d.Loaded != older || d.OnDisk != older || d.Library != older || d.Modules != driver.Closed || !d.Tools || d.Foreign != "" {
		t.Errorf("%+v", d)
	}
	r.has(older, true)
	if !slices.Equal(f.Available["nvidia-smi"], []string{newer + "-1", older + "-1"}) {
		t.Errorf("%v", f.Available)
	}
	// Who has the device open is known by the links of its descriptors.
	r.must(os.MkdirAll(r.Root.Path("proc/42/fd"), 0o755))
	r.must(os.Symlink("/dev/nvidia0", r.Root.Path("proc/42/fd/5")))
	r.must(os.Symlink("/usr/bin/python3.11", r.Root.Path("proc/42/exe")))
	r.must(r.Write("run/nvidia/driver/usr/bin/nvidia-smi", ""))
	f = r.facts()
	if len(f.Holders) != 1 || f.Holders[0].Name != "python3.11" || f.Holders[0].Ours || f.Holders[0].Display {
		t.Errorf("%+v", f.Holders)
	}
	if f.Drivers[gpu.NVIDIA].Foreign != "a driver container" {
		t.Errorf("%+v", f.Drivers)
	}
	r.must(r.Write("sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", "\x06\x00\x00\x00\x01"))
	r.must(os.Remove(r.Root.Path("proc/42/exe")))
	r.must(os.Symlink("/usr/lib/xorg/Xorg", r.Root.Path("proc/42/exe")))
	r.must(os.Symlink("/dev/nvidia-modeset", r.Root.Path("proc/42/fd/6")))
	if f = r.facts(); !f.SecureBoot || !f.Holders[0].Display {
		t.Errorf("Secure Boot %v, %+v", f.SecureBoot, f.Holders)
	}
	// Programs that run as root get nothing of the agent's environment, where tokens are.
	t.Setenv("NOMAD_TOKEN", "secret")
	r.must(r.Write("usr/local/sbin/shows", "#!/bin/sh\nenv\n"))
	out, err := r.Run(t.Context(), "shows")
	if err != nil || strings.Contains(out, "secret") || !strings.Contains(out, "DEBIAN_FRONTEND=noninteractive") {
		t.Errorf("%q, %v", out, err)
	}
	// What is not understood is an error, and no host without packages.
	r.must(r.Write("usr/local/sbin/dpkg-query", "#!/bin/sh\necho 'hi  nvidia-smi'\n"))
	if _, err := inventory.Read(t.Context(), r.Root, false); err == nil || !strings.Contains(err.Error(), `dpkg-query printed "hi  nvidia-smi`) {
		t.Errorf("%v", err)
	}
}

func TestUpgradeAndBack(t *testing.T) {
	r := newRig(t)
	s := r.planned()
	r.must(r.fetch(t.Context(), s))
	r.has(older, true) // to fetch changes nothing
	for _, p := range append(slices.Clone(s.From), s.Plan.Install...) {
		if driver.Upstream(p.Version) != "6.1.147" && r.file(p) == "" {
			t.Errorf("%s was not kept", p)
		}
	}
	// From here on the mirror is not needed any more.
	r.must(r.Withdraw(newer))
	r.must(r.Withdraw(older))
	r.must(r.install(t.Context(), s.Plan))
	r.must(r.hold(t.Context(), gpu.NVIDIA))
	r.has(newer, true)
	// A second time is harmless.
	r.must(r.install(t.Context(), s.Plan))
	r.must(r.hold(t.Context(), gpu.NVIDIA))
	r.has(newer, true)
	r.must(r.restore(t.Context(), s.From, r.facts().DriverPackages(gpu.NVIDIA)))
	r.must(r.hold(t.Context(), gpu.NVIDIA))
	r.has(older, true)
	if out, err := r.Run(t.Context(), "apt-get", "-s", "dist-upgrade"); err != nil || strings.Contains(out, "Inst nvidia") {
		t.Errorf("held packages would be upgraded: %s, %v", out, err)
	}
}

// On a host without a driver the packages that come along have the version that is
// wanted, though there is a newer one.
func TestAnOlderVersionOnAFreshHost(t *testing.T) {
	r := newRig(t)
	_, err := r.Run(t.Context(), "apt-get", "-y", "-q", "--allow-change-held-packages", "purge", "nvidia-*", "libnvidia-*", "libcuda1")
	r.must(err)
	r.must(r.Boot(t.Context()))
	p, refused := driver.Make(r.facts(), driver.Want{Version: older})
	if refused != nil {
		t.Fatal(refused)
	}
	s := driver.State{Plan: p}
	r.must(r.fetch(t.Context(), s))
	r.must(r.install(t.Context(), p))
	r.has(older, false)
	// The way back is that there is none.
	r.must(r.restore(t.Context(), nil, r.facts().DriverPackages(gpu.NVIDIA)))
	if left := r.facts().DriverPackages(gpu.NVIDIA); len(left) > 0 {
		t.Errorf("%+v", left)
	}
}

// The other kind of modules goes with all that belongs to it, though it is held, and comes
// back on the way back.
func TestOtherModules(t *testing.T) {
	r := newRig(t)
	open, err := debian.OpenModules(t.Context(), older)
	r.must(err)
	r.must(r.Publish(t.Context(), open))
	_, err = r.Run(t.Context(), "apt-get", "-y", "-q", "-o", "Dpkg::Use-Pty=0", "--ignore-hold", "--allow-change-held-packages", "install", "nvidia-open-kernel-dkms", "nvidia-kernel-dkms-")
	r.must(err)
	r.must(r.hold(t.Context(), gpu.NVIDIA))
	s := r.planned()
	if !slices.Equal(s.Plan.Remove, []string{"nvidia-open-kernel-dkms"}) {
		t.Fatalf("%+v", s.Plan)
	}
	r.must(r.fetch(t.Context(), s))
	r.must(r.install(t.Context(), s.Plan))
	r.must(r.hold(t.Context(), gpu.NVIDIA))
	r.has(newer, true)
	r.must(r.restore(t.Context(), s.From, r.facts().DriverPackages(gpu.NVIDIA)))
	var now []driver.Pin
	for _, p := range r.facts().DriverPackages(gpu.NVIDIA) {
		now = append(now, driver.Pin{Name: p.Name, Version: p.Version})
	}
	if !slices.Equal(now, s.From) {
		t.Errorf("%v, want %v", now, s.From)
	}
}

// A package whose script fails is left half-configured; the way back mends it.
func TestAHalfConfiguredPackage(t *testing.T) {
	r := newRig(t)
	s := r.planned()
	r.must(r.fetch(t.Context(), s))
	r.must(r.Write("etc/fails-nvidia-kernel-dkms-"+newer, ""))
	if err := r.install(t.Context(), s.Plan); err == nil {
		t.Fatal("a package that cannot be configured is no error")
	}
	f := r.facts()
	if !slices.ContainsFunc(f.Packages, func(p driver.Package) bool { return p.Broken == "half-configured" }) {
		t.Errorf("no package is half-configured: %+v", f.Packages)
	}
	if _, refused := driver.Make(f, driver.Want{Version: newer}); refused == nil || !strings.Contains(refused.Reason, "half-configured") {
		t.Errorf("a plan was made on it: %v", refused)
	}
	r.must(r.restore(t.Context(), s.From, f.DriverPackages(gpu.NVIDIA)))
	r.must(r.hold(t.Context(), gpu.NVIDIA))
	r.has(older, true)
}

// An installation that was interrupted is brought to its end by the next one.
func TestAnInterruptedInstallation(t *testing.T) {
	r := newRig(t)
	s := r.planned()
	r.must(r.fetch(t.Context(), s))
	fails := "etc/fails-libnvidia-ml1-" + newer
	r.must(r.Write(fails, ""))
	if err := r.install(t.Context(), s.Plan); err == nil {
		t.Fatal("no error")
	}
	r.must(os.Remove(r.Root.Path(fails)))
	r.must(r.install(t.Context(), s.Plan))
	r.must(r.hold(t.Context(), gpu.NVIDIA))
	r.has(newer, true)
}

// What shows before the node is drained changes nothing.
func TestWhatEndsBeforeItBegins(t *testing.T) {
	r := newRig(t)
	s := r.planned()
	t.Run("a mirror that fails", func(t *testing.T) {
		r.must(os.Rename(r.Repository+"/nvidia-smi_"+newer+"-1_amd64.deb", r.Repository+"/away"))
		if err := r.fetch(t.Context(), s); err == nil || !strings.Contains(err.Error(), "cannot download the packages") {
			t.Errorf("%v", err)
		}
		r.must(os.Rename(r.Repository+"/away", r.Repository+"/nvidia-smi_"+newer+"-1_amd64.deb"))
	})
	t.Run("a new kernel", func(t *testing.T) {
		next, err := debian.Driver(t.Context(), "535.400.01", []byte("a library"))
		r.must(err)
		next[1].Depends += ", linux-image-6.1.0-60-amd64"
		r.must(r.Publish(t.Context(), append(next, debian.Package{Name: "linux-image-6.1.0-60-amd64", Version: "6.1.200-1"})))
		with := s
		var refused *driver.Refusal
		if with.Plan, refused = driver.Make(r.facts(), driver.Want{Version: "535.400.01"}); refused != nil {
			t.Fatal(refused)
		}
		if err := r.fetch(t.Context(), with); err == nil || !strings.Contains(err.Error(), "new kernel (linux-image-6.1.0-60-amd64)") {
			t.Errorf("%v", err)
		}
	})
	t.Run("no way back", func(t *testing.T) {
		r.must(os.RemoveAll(r.Root.Path(r.dir)))
		r.must(r.Withdraw(older))
		err := r.fetch(t.Context(), s)
		if err == nil || !strings.Contains(err.Error(), "so a rollback would not be possible") || !strings.Contains(err.Error(), "allow_no_rollback") {
			t.Errorf("%v", err)
		}
		without := s
		without.Want.AllowNoRollback = true
		r.must(r.fetch(t.Context(), without))
	})
	t.Run("a full disk", func(t *testing.T) {
		r.must(os.RemoveAll(r.Root.Path(r.dir)))
		r.must(r.Small(r.dir, 4096))
		if err := r.fetch(t.Context(), s); err == nil || !strings.Contains(err.Error(), "MiB free, but the installation needs") {
			t.Errorf("%v", err)
		}
	})
	r.has(older, true)
}

// A /boot of its own is small, and needs room for another initrd alone, whatever the
// packages need.
func TestASmallBoot(t *testing.T) {
	r := newRig(t)
	s := r.planned()
	initrd := "boot/initrd.img-" + debian.Kernel
	r.must(r.Small("boot", 16<<10))
	r.must(r.Write(initrd, strings.Repeat("x", 4<<10)))
	r.must(r.fetch(t.Context(), s))
	r.must(r.Write(initrd, strings.Repeat("x", 8<<10)))
	if err := r.fetch(t.Context(), s); err == nil || !strings.Contains(err.Error(), "/boot has 0 MiB free, but the installation needs") {
		t.Errorf("%v", err)
	}
}

// A disk that is full in the middle ends an installation, and not the way back.
func TestADiskThatFillsUp(t *testing.T) {
	r := newRig(t)
	big, err := debian.Driver(t.Context(), "535.400.01", []byte("a library"))
	r.must(err)
	for i := range big {
		if big[i].Name == "nvidia-kernel-dkms" {
			big[i].Files["usr/lib/modules/"+debian.Kernel+"/pad"] = strings.Repeat("x", 1<<20)
		}
	}
	r.must(r.Publish(t.Context(), big))
	p, refused := driver.Make(r.facts(), driver.Want{Version: "535.400.01"})
	if refused != nil {
		t.Fatal(refused)
	}
	s := r.planned()
	s.Plan = p
	r.must(r.fetch(t.Context(), s))
	r.must(r.Small("usr/lib/modules", 256<<10))
	if err := r.install(t.Context(), p); err == nil {
		t.Fatal("a full disk is no error")
	}
	r.must(r.restore(t.Context(), s.From, r.facts().DriverPackages(gpu.NVIDIA)))
	r.must(r.hold(t.Context(), gpu.NVIDIA))
	r.has(older, true)
}

// A maintainer script that never ends is ended with all of its installation when the time
// is over, and the way back is as after any failure.
func TestAnInstallationThatHangs(t *testing.T) {
	r := newRig(t)
	s := r.planned()
	r.must(r.fetch(t.Context(), s))
	hangs := "etc/hangs-libcuda1-" + newer
	r.must(r.Write(hangs, ""))
	ctx, end := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.install(ctx, s.Plan) }()
	var pid int64
	for pid == 0 {
		select {
		case err := <-done:
			t.Fatalf("the installation does not hang: %v", err)
		default:
			pid, _ = r.Root.Number("var/log/hangs")
		}
	}
	end(errors.New("it took longer than 2h"))
	if err := <-done; err == nil || !strings.Contains(err.Error(), "apt-get was killed: it took longer than 2h") {
		t.Errorf("%v", err)
	}
	if fd, err := unix.PidfdOpen(int(pid), 0); err == nil {
		gone := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(gone, 60_000)
		for err == unix.EINTR {
			n, err = unix.Poll(gone, 60_000)
		}
		if n != 1 || err != nil {
			t.Fatalf("the maintainer script was not ended: %v", err)
		}
		_ = unix.Close(fd)
	} else if err != unix.ESRCH {
		t.Fatal(err)
	}
	r.must(os.Remove(r.Root.Path(hangs)))
	r.must(r.restore(t.Context(), s.From, r.facts().DriverPackages(gpu.NVIDIA)))
	r.must(r.hold(t.Context(), gpu.NVIDIA))
	r.has(older, true)
}

// The modules come and go by gentle means alone, and services are as before.
func TestReload(t *testing.T) {
	r := newRig(t)
	m, _ := driver.MakerOf(gpu.NVIDIA)
	k := kernel{root: r.Root, maker: m, marker: "/run/aliquot/driver-change", stopped: state + "/stopped"}
	r.must(os.MkdirAll(r.Root.Path(state), 0o700))
	s := r.planned()
	r.must(r.fetch(t.Context(), s))
	r.must(r.install(t.Context(), s.Plan))
	r.must(r.Write("sys/module/nvidia/refcnt", "1\n"))
	if err := k.reload(t.Context()); err == nil || !strings.Contains(err.Error(), "module nvidia is in use 1 times") || r.Loaded() != older {
		t.Errorf("%v, loaded %s", err, r.Loaded())
	}
	r.must(r.Write("sys/module/nvidia/refcnt", "0\n"))
	r.must(k.release(t.Context()))
	if running := r.Root.TextOr("", "var/lib/services/running"); running != "" || !r.Root.Exists("run/aliquot/driver-change") {
		t.Errorf("running: %q", running)
	}
	r.must(k.release(t.Context())) // a second time forgets nothing
	r.must(k.reload(t.Context()))
	r.must(k.resume(t.Context()))
	if running := r.Root.TextOr("", "var/lib/services/running"); running != "nvidia-persistenced" || r.Root.Exists("run/aliquot/driver-change") || r.Loaded() != newer {
		t.Errorf("running: %q, loaded %s", running, r.Loaded())
	}
	// A service that does not start keeps no GPU from its tasks, and is tried again.
	r.must(k.release(t.Context()))
	r.must(r.Write("etc/start-fails-nvidia-persistenced", ""))
	if err := k.resume(t.Context()); err == nil || !strings.Contains(err.Error(), "service nvidia-persistenced cannot be started") || r.Root.Exists("run/aliquot/driver-change") {
		t.Errorf("%v", err)
	}
	r.must(os.Remove(r.Root.Path("etc/start-fails-nvidia-persistenced")))
	r.must(k.resume(t.Context()))
	if running := r.Root.TextOr("", "var/lib/services/running"); running != "nvidia-persistenced" {
		t.Errorf("running: %q", running)
	}
	for line := range strings.Lines(r.Asked()) {
		if strings.Contains(line, " -f ") || strings.Contains(line, "--force") {
			t.Errorf("a module was forced: %s", line)
		}
	}
	r.must(r.Write("etc/rmmod-fails", ""))
	if err := k.reload(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot be unloaded") {
		t.Errorf("%v", err)
	}
}

// The file of the state is whole whenever it is read.
func TestStateIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	for _, text := range []string{"one", "two"} {
		if err := writeWhole(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("%q, %v", got, err)
		}
	}
}
