// Package packaging tests what makes the files of a release.
package packaging

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// An image is the same whoever makes it, and both a layout of OCI and what docker loads.
func TestImage(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("a program"), 0o700); err != nil {
		t.Fatal(err)
	}
	image := func(name, mask string) (string, []byte) {
		t.Helper()
		path := filepath.Join(dir, name)
		cmd := exec.CommandContext(t.Context(), "sh", "-c", `umask `+mask+` && exec ../scripts/release-image "$@"`, "sh",
			program, "arm64", "1.2.3", "c0ffee", path)
		cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return path, text
	}
	path, one := image("one.tar", "022")
	if _, two := image("two.tar", "077"); !bytes.Equal(one, two) {
		t.Error("two images of one program differ")
	}
	byDocker, err := tarball.ImageFromPath(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(byDocker); err != nil {
		t.Error(err)
	}
	config, err := byDocker.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := config.Config
	if config.Architecture != "arm64" || c.User != "65532:65532" || c.Labels["org.opencontainers.image.version"] != "1.2.3" ||
		c.Labels["org.opencontainers.image.revision"] != "c0ffee" || len(c.Entrypoint) != 1 || c.Entrypoint[0] != "/usr/bin/aliquot" {
		t.Errorf("%+v", config)
	}
	unpack(t, one, filepath.Join(dir, "layout"))
	byLayout, err := layout.ImageIndexFromPath(filepath.Join(dir, "layout"))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(byLayout); err != nil {
		t.Error(err)
	}
	index, err := byLayout.IndexManifest()
	if err != nil || len(index.Manifests) != 1 {
		t.Fatalf("%+v, %v", index, err)
	}
}

func unpack(t *testing.T, archive []byte, dir string) {
	t.Helper()
	for files := tar.NewReader(bytes.NewReader(archive)); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.Clean(header.Name))
		if header.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o755)
		} else {
			var body []byte
			if body, err = io.ReadAll(files); err == nil {
				err = os.WriteFile(path, body, 0o600)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Programs for arm64 answer, as far as qemu can tell.
func TestProgramsForARM64(t *testing.T) {
	qemu, err := exec.LookPath("qemu-aarch64-static")
	if err != nil {
		t.Skip("no qemu-aarch64-static on this machine (Debian: qemu-user-static)")
	}
	program := filepath.Join(t.TempDir(), "aliquot-target")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "aliquot.example/cmd/aliquot-target")
	build.Env = append(os.Environ(), "GOARCH=arm64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), qemu, program, "-version").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "aliquot-target ") {
		t.Errorf("%v: %s", err, out)
	}
}
