package aliquot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aliquot.example/internal/gpu"
)

// dmemTree is the control group file system of a kernel with the controller dmem and a
// card that a container uses.
func dmemTree(t *testing.T) tree {
	r := tree{t, t.TempDir()}
	r.file("sys/fs/cgroup/dmem.capacity", "drm/0000:c1:00.0/vram 17163091968\ndrm/0000:c1:00.0/stolen 67108864\ndrm/0000:c6:00.0/vram0 17163091968\n")
	r.file("sys/fs/cgroup/cgroup.subtree_control", "cpu memory dmem")
	r.file("sys/fs/cgroup/system.slice/cgroup.subtree_control", "cpu memory")
	r.file("sys/fs/cgroup/system.slice/docker-x.scope/dmem.max", "drm/0000:c1:00.0/vram max\n")
	return r
}

func TestMemoryLimitIsWrittenAndReadBack(t *testing.T) {
	r := dmemTree(t)
	read := func(path string) string {
		text, err := os.ReadFile(filepath.Join(r.dir, "sys/fs/cgroup", path))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	g := gpu.Grant{Vendor: gpu.AMD, PCI: []string{"0000:c1:00.0"}, Sharing: gpu.SharingCUMask, Memory: 4096}
	regions := amdRegions(settings{host: r.host()}, g)
	if len(regions) != 1 || regions[0] != "drm/0000:c1:00.0/vram" {
		t.Fatalf("regions %q", regions)
	}
	if err := limitDmem(r.host().root(), "/system.slice/docker-x.scope", regions[0], g.Memory.Bytes()); err != nil {
		t.Fatal(err)
	}
	if got := read("system.slice/docker-x.scope/dmem.max"); got != "drm/0000:c1:00.0/vram 4294967296" {
		t.Errorf("the limit is %q", got)
	}
	if got := read("system.slice/cgroup.subtree_control"); got != "+dmem" {
		t.Errorf("the group above was told %q", got)
	}
	if got := read("cgroup.subtree_control"); got != "cpu memory dmem" {
		t.Errorf("the root, which passes the controller on, was told %q", got)
	}
}

// A limit that the kernel does not show is none.
func TestMemoryLimitThatDoesNotHoldIsReported(t *testing.T) {
	r := dmemTree(t)
	max := filepath.Join(r.dir, "sys/fs/cgroup/system.slice/docker-x.scope/dmem.max")
	if err := os.Remove(max); err != nil {
		t.Fatal(err)
	}
	if err := limitDmem(r.host().root(), "/system.slice/docker-x.scope", "drm/0000:c1:00.0/vram", 1<<32); err == nil {
		t.Error("a group without the controller is said to be held")
	}
	if err := os.Symlink(os.DevNull, max); err != nil {
		t.Fatal(err)
	}
	if err := limitDmem(r.host().root(), "/system.slice/docker-x.scope", "drm/0000:c1:00.0/vram", 1<<32); err == nil || !strings.Contains(err.Error(), "no limit") {
		t.Errorf("%v", err)
	}
}

// Only memory that neighbours share is limited, and only where the kernel can.
func TestMemoryIsLimitedWhereItIsShared(t *testing.T) {
	s := settings{host: dmemTree(t).host()}
	for sharing, want := range map[gpu.Sharing]bool{gpu.SharingCUMask: true, gpu.SharingNone: false, gpu.SharingPartition: false} {
		if got := amd.limits(s, gpu.Grant{PCI: []string{"0000:C1:00.0"}, Sharing: sharing}); got != want {
			t.Errorf("%s: %v, want %v", sharing, got, want)
		}
	}
	if got := dmemRegions(amdTree(t).host().root(), "drm/0000:c1:00.0/vram"); got != nil {
		t.Errorf("a kernel without the controller has %q", got)
	}
}

func TestGroupOfAProcess(t *testing.T) {
	r := tree{t, t.TempDir()}
	r.file("proc/7/cgroup", "12:devices:/docker/x\n0::/system.slice/docker-x.scope\n")
	r.file("proc/8/cgroup", "12:devices:/docker/x\n0::/\n")
	for pid, want := range map[int]string{7: "/system.slice/docker-x.scope", 8: "", 9: ""} {
		if got := groupOf(r.host().root(), pid); got != want {
			t.Errorf("process %d is in %q, want %q", pid, got, want)
		}
	}
}
