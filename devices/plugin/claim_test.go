package plugin

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"aliquot.example/internal/gpu"
)

func TestOneClaimAtATime(t *testing.T) {
	dir := t.TempDir()
	one, two := newClaim(dir, gpu.NVIDIA), newClaim(dir, gpu.NVIDIA)
	if why := one.missing(); why != "" {
		t.Fatal(why)
	}
	if why := one.missing(); why != "" {
		t.Errorf("a claim that is held is lost: %s", why)
	}
	if why := two.missing(); !strings.Contains(why, "another device plugin for nvidia") {
		t.Errorf("two processes have one claim: %q", why)
	}
	if why := newClaim(dir, gpu.AMD).missing(); why != "" {
		t.Errorf("another vendor's: %s", why)
	}
	one.lock.Close()
	if why := two.missing(); why != "" {
		t.Errorf("after the first has ended: %s", why)
	}
}

func TestAClaimSaysWhatIsWrongWithItsFolder(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{file: "not a directory"}
	readonly := filepath.Join(dir, "readonly")
	if err := os.Mkdir(readonly, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", readonly, "tmpfs", syscall.MS_RDONLY, ""); err == nil {
		t.Cleanup(func() { _ = syscall.Unmount(readonly, 0) })
		want[readonly] = "read-only file system"
	}
	for path, reason := range want {
		if why := newClaim(path, gpu.NVIDIA).missing(); !strings.HasPrefix(why, "run_dir "+path+" cannot be used") || !strings.Contains(why, reason) {
			t.Errorf("%q, want it to name %s and %q", why, path, reason)
		}
	}
}
