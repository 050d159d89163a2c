package nvidia

import (
	"os"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"aliquot.example/internal/host"
)

func TestNodesWithoutALinkAreListedWhereSystemdRuns(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making device nodes needs root")
	}
	root := host.Root(t.TempDir())
	for _, dir := range []string{"/dev/char", "/dev/nvidia-caps"} {
		if err := os.MkdirAll(root.Path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, minor := range map[string]uint32{"/dev/nvidia0": 0, "/dev/nvidia1": 1, "/dev/nvidiactl": 255, "/dev/null": 3} {
		if err := syscall.Mknod(root.Path(path), syscall.S_IFCHR|0o666, int(unix.Mkdev(195, minor))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../nvidia1", root.Path("/dev/char/195:1")); err != nil {
		t.Fatal(err)
	}
	if got := Unnamed(root); got != nil {
		t.Errorf("without systemd: %v", got)
	}
	if err := os.MkdirAll(root.Path("/run/systemd/system"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got, want := Unnamed(root), []string{"/dev/nvidia0", "/dev/nvidiactl"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if err := os.MkdirAll(root.Path("/etc/docker"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root.Path("/etc/docker/daemon.json"), []byte(`{"exec-opts": ["native.cgroupdriver=cgroupfs"]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := Unnamed(root); got != nil {
		t.Errorf("with control groups of docker's own: %v", got)
	}
}
