package debian

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// Package is a small package that stands in for one of a driver's packages.
type Package struct {
	Name, Version, Depends, Conflicts string
	// Files are its files by path, and Scripts its maintainer scripts by name.
	Files, Scripts map[string]string
}

// Driver returns the packages of a version of NVIDIA's driver as Debian has them. library is the
// content of libnvidia-ml.so.1. The maintainer scripts fail if the host has a file
// /etc/fails-<name>-<version>. If it has /etc/hangs-<name>-<version>, they never end, and write
// their PID to /var/log/hangs.
func Driver(ctx context.Context, version string, library []byte) ([]Package, error) {
	module, err := moduleFile(ctx, version)
	if err != nil {
		return nil, err
	}
	const lib = "usr/lib/x86_64-linux-gnu/"
	full := version + "-1"
	exactly := func(name string) string { return name + " (= " + full + ")" }
	list := []Package{
		{Name: "nvidia-alternative"},
		{Name: "nvidia-kernel-dkms", Depends: exactly("nvidia-alternative"),
			Files: map[string]string{"usr/lib/modules/" + Kernel + "/updates/dkms/nvidia-current.ko": module},
			Scripts: map[string]string{"postinst": "depmod " + Kernel,
				"postrm": "[ \"$1\" != remove ] || depmod " + Kernel}},
		{Name: "libnvidia-ml1", Files: map[string]string{lib + "libnvidia-ml.so." + version: string(library),
			lib + "libnvidia-ml.so.1 ->": "libnvidia-ml.so." + version}},
		{Name: "libcuda1", Files: map[string]string{lib + "libcuda.so." + version: "# " + version,
			lib + "libcuda.so.1 ->": "libcuda.so." + version}},
		{Name: "nvidia-smi", Depends: exactly("libnvidia-ml1"),
			Files: map[string]string{"usr/bin/nvidia-smi": "#!/bin/sh\n"}},
		{Name: "nvidia-cuda-mps", Depends: exactly("libcuda1"),
			Files: map[string]string{"usr/bin/nvidia-cuda-mps-control": "#!/bin/sh\n",
				"usr/bin/nvidia-cuda-mps-server": "#!/bin/sh\n"}},
	}
	for i := range list {
		p := &list[i]
		p.Version = full
		if p.Scripts == nil {
			p.Scripts = map[string]string{}
		}
		p.Scripts["postinst"] = fmt.Sprintf(
			"if [ -e /etc/fails-%[1]s-%[2]s ]; then echo 'make: *** Error 2' >&2; exit 1; fi\n"+
				"if [ -e /etc/hangs-%[1]s-%[2]s ]; then echo $$ >/var/log/hangs; exec sleep infinity; fi\n%[3]s",
			p.Name, version, p.Scripts["postinst"])
	}
	return append(list, Package{Name: "linux-headers-" + Kernel, Version: "6.1.147-1"}), nil
}

// OpenModules returns the packages of a version that hold the open kernel modules and replace
// nvidia-kernel-dkms.
func OpenModules(ctx context.Context, version string) ([]Package, error) {
	module, err := moduleFile(ctx, version)
	full := version + "-1"
	return []Package{
		{Name: "nvidia-open-kernel-support", Version: full, Depends: "nvidia-alternative (= " + full + ")"},
		{Name: "nvidia-open-kernel-dkms", Version: full, Depends: "nvidia-open-kernel-support (= " + full + ")",
			Conflicts: "nvidia-kernel-dkms",
			Files:     map[string]string{"usr/lib/modules/" + Kernel + "/updates/dkms/nvidia-current-open.ko": module}},
	}, err
}

// moduleFile compiles a file that modinfo reads as a kernel module of the given version.
func moduleFile(ctx context.Context, version string) (string, error) {
	dir, err := os.MkdirTemp("", "module-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	source := filepath.Join(dir, "m.c")
	text := fmt.Sprintf("__attribute__((section(\".modinfo\"), used)) static const char v[] = \"version=%s\";\n",
		version)
	if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
		return "", err
	}
	object := filepath.Join(dir, "m.ko")
	if out, err := exec.CommandContext(ctx, "gcc", "-c", "-o", object, source).CombinedOutput(); err != nil {
		return "", fmt.Errorf("gcc: %w: %s", err, out)
	}
	b, err := os.ReadFile(object)
	return string(b), err
}

// Publish builds packages, adds them to the host's repository and updates the list of its apt.
func (h *Host) Publish(ctx context.Context, packages []Package) error {
	for _, p := range packages {
		if err := h.build(ctx, p); err != nil {
			return err
		}
	}
	return h.Index(ctx)
}

// built holds the packages that this process has built, as files, by content.
var built sync.Map

// build builds a package, or takes the file that was already built for the same content.
func (h *Host) build(ctx context.Context, p Package) error {
	key := sha256.Sum256(fmt.Append(nil, p))
	out := filepath.Join(h.Repository, fmt.Sprintf("%s_%s_amd64.deb", p.Name, p.Version))
	deb, ok := built.Load(key)
	if !ok {
		content, err := pack(ctx, p)
		if err != nil {
			return err
		}
		deb, _ = built.LoadOrStore(key, content)
	}
	return errors.Join(os.WriteFile(out, deb.([]byte), 0o644), os.WriteFile(out+".control", []byte(p.control()), 0o600))
}

func pack(ctx context.Context, p Package) ([]byte, error) {
	dir, err := os.MkdirTemp("", "package-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return nil, err
	}
	files := map[string]string{"DEBIAN/control": p.control()}
	for name, text := range p.Scripts {
		files["DEBIAN/"+name] = "#!/bin/sh\nset -e\n" + text + "\n"
	}
	for name, text := range p.Files {
		files[name] = text
	}
	for name, text := range files {
		if err := place(tree, name, text); err != nil {
			return nil, err
		}
	}
	out := filepath.Join(dir, "out.deb")
	if text, err := exec.CommandContext(ctx, "dpkg-deb", "--root-owner-group", "-Znone", "-b", tree,
		out).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("dpkg-deb: %w: %s", err, text)
	}
	return os.ReadFile(out)
}

func (p Package) control() string {
	text := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: "+
		"nobody <nobody@example.com>\nDescription: stands in for a driver's\n", p.Name, p.Version)
	if p.Depends != "" {
		text += "Depends: " + p.Depends + "\n"
	}
	if p.Conflicts != "" {
		text += "Conflicts: " + p.Conflicts + "\n"
	}
	return text
}

// place writes a file of a package, or a symbolic link if the name ends in " ->".
func place(dir, name, text string) error {
	link := strings.HasSuffix(name, " ->")
	path := filepath.Join(dir, strings.TrimSuffix(name, " ->"))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if link {
		return os.Symlink(text, path)
	}
	mode := os.FileMode(0o644)
	if strings.HasPrefix(text, "#!") {
		mode = 0o755
	}
	return os.WriteFile(path, []byte(text), mode)
}

// Index writes the repository's list of packages and updates the list of the host's apt.
func (h *Host) Index(ctx context.Context) error {
	debs, err := filepath.Glob(filepath.Join(h.Repository, "*.deb"))
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, deb := range debs {
		control, err := os.ReadFile(deb + ".control")
		if err != nil {
			return err
		}
		content, err := os.ReadFile(deb)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%sFilename: ./%s\nSize: %d\nSHA256: %x\n\n", control, filepath.Base(deb), len(content),
			sha256.Sum256(content))
	}
	if err := os.WriteFile(filepath.Join(h.Repository, "Packages"), []byte(b.String()), 0o644); err != nil {
		return err
	}
	_, err = h.Run(ctx, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "update")
	return err
}

// Withdraw removes the files of a version from the repository but keeps them in its list, like a
// mirror that is only partly updated.
func (h *Host) Withdraw(version string) error {
	debs, err := filepath.Glob(filepath.Join(h.Repository, "*_"+version+"-1_amd64.deb"))
	if err != nil || len(debs) == 0 {
		return fmt.Errorf("there is no package of %s, %w", version, err)
	}
	for _, deb := range debs {
		if err := os.Remove(deb); err != nil {
			return err
		}
	}
	return nil
}
