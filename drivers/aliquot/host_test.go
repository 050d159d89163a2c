package aliquot

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"

	"aliquot.example/internal/gpu"
	amdkernel "aliquot.example/internal/host/amd"
	nvidiakernel "aliquot.example/internal/host/nvidia"
)

// tree is the root directory of a machine that is not there.
type tree struct {
	t   testing.TB
	dir string
}

func (r tree) host() host { return host(r.dir) }

func (r tree) make(path string) string {
	r.t.Helper()
	path = filepath.Join(r.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	return path
}

func (r tree) file(path, content string) {
	r.t.Helper()
	if err := os.WriteFile(r.make(path), []byte(content), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// node makes a character device that swallows everything, or a file where the
// test may not make devices.
func (r tree) node(path string, gid int) {
	r.t.Helper()
	path = r.make(path)
	if os.Geteuid() != 0 {
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			r.t.Fatal(err)
		}
		return
	}
	const null = 1<<8 | 3
	if err := syscall.Mknod(path, syscall.S_IFCHR|0o666, null); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Chown(path, 0, gid); err != nil {
		r.t.Fatal(err)
	}
}

// nvidiaTree has two GPUs; the first has a MIG device as well.
func nvidiaTree(t testing.TB) tree {
	r := tree{t, t.TempDir()}
	for _, n := range []string{"nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia0", "nvidia3", "nvidia-caps/nvidia-cap1", "nvidia-caps/nvidia-cap66", "nvidia-caps/nvidia-cap67", "nvidia-caps/nvidia-cap75"} {
		r.node("dev/"+n, 0)
	}
	for pci, minor := range map[string]int{"0000:1b:00.0": 0, "0000:3b:00.0": 3} {
		r.file("proc/driver/nvidia/gpus/"+pci+"/information", fmt.Sprintf("Model: \t\t NVIDIA\nGPU UUID: \t GPU-%d\nDevice Minor: \t %d\n", minor+1, minor))
	}
	for path, n := range map[string]int{"gi7/access": 66, "gi7/ci0/access": 67, "gi8/access": 75} {
		r.file("proc/driver/nvidia/capabilities/gpu0/mig/"+path, fmt.Sprintf("DeviceFileMinor: %d\nDeviceFileMode: 292\nDeviceFileModify: 1\n", n))
	}
	return r
}

// amdTree has a card of two partitions and a whole one, as an older kernel shows
// them: the partition is in the PCI function.
func amdTree(t testing.TB) tree {
	r := tree{t, t.TempDir()}
	r.node("dev/kfd", 992)
	for i, location := range []int{0, 0xc100, 0xc101, 0xc600} {
		properties := "cpu_cores_count 64\nsimd_count 0\n"
		if i > 0 {
			properties = fmt.Sprintf("simd_count 152\ndrm_render_minor %d\nlocation_id %d\ndomain 0\n", 127+i, location)
			r.node(fmt.Sprintf("dev/dri/renderD%d", 127+i), 992)
		}
		r.file(fmt.Sprintf("sys/class/kfd/kfd/topology/nodes/%d/properties", i), properties)
	}
	r.file("etc/group", "root:x:0:\nvideo:x:44:\nrender:x:992:ci\n")
	return r
}

func paths(nodes []*drivers.DeviceConfig) []string {
	var out []string
	for _, n := range nodes {
		out = append(out, n.TaskPath)
	}
	return out
}

func TestNVIDIANodes(t *testing.T) {
	r := nvidiaTree(t)
	control := []string{"/dev/nvidiactl", "/dev/nvidia-uvm"}
	for name, c := range map[string]struct {
		grant gpu.Grant
		own   []string
	}{
		"one":  {gpu.Grant{GPUs: []gpu.ID{"a"}, PCI: []string{"0000:3b:00.0"}}, []string{"/dev/nvidia3"}},
		"nvml": {gpu.Grant{GPUs: []gpu.ID{"a"}, PCI: []string{"00000000:3B:00.0"}}, []string{"/dev/nvidia3"}},
		"two":  {gpu.Grant{GPUs: []gpu.ID{"a", "b"}, PCI: []string{"0000:3b:00.0", "0000:1b:00.0"}}, []string{"/dev/nvidia3", "/dev/nvidia0"}},
		"mig":  {gpu.Grant{GPUs: []gpu.ID{"a"}, PCI: []string{"0000:1b:00.0"}, MIG: []string{"7/0"}, Sharing: gpu.SharingMIG}, []string{"/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap66", "/dev/nvidia-caps/nvidia-cap67"}},
		"same": {gpu.Grant{GPUs: []gpu.ID{"a", "b"}, PCI: []string{"0000:1b:00.0", "0000:1b:00.0"}}, []string{"/dev/nvidia0"}},
	} {
		nodes, err := r.host().nvidiaNodes(c.grant)
		if want := slices.Concat(control, c.own, []string{"/dev/nvidia-uvm-tools"}); err != nil || !slices.Equal(paths(nodes), want) {
			t.Errorf("%s: %v, %v; want %v", name, paths(nodes), err, want)
		}
	}
}

func TestNVIDIANodesThatAreMissingAreNamed(t *testing.T) {
	r := nvidiaTree(t)
	os.Remove(filepath.Join(r.dir, "dev/nvidia3"))
	for want, g := range map[string]gpu.Grant{
		"/dev/nvidia3 is missing":              {GPUs: []gpu.ID{"a"}, PCI: []string{"0000:3b:00.0"}},
		"does not know GPU a at 0000:00:00.0":  {GPUs: []gpu.ID{"a"}, PCI: []string{"0000:00:00.0"}},
		"no PCI address for GPU b":             {GPUs: []gpu.ID{"a", "b"}, PCI: []string{"0000:1b:00.0"}},
		`"../0" is not a GPU instance`:         {GPUs: []gpu.ID{"a"}, PCI: []string{"0000:1b:00.0"}, MIG: []string{"../0"}, Sharing: gpu.SharingMIG},
		"gi9/access: no such file":             {GPUs: []gpu.ID{"a"}, PCI: []string{"0000:1b:00.0"}, MIG: []string{"9/0"}, Sharing: gpu.SharingMIG},
		"has no GPU instance for MIG device a": {GPUs: []gpu.ID{"a"}, PCI: []string{"0000:1b:00.0"}, Sharing: gpu.SharingMIG},
	} {
		if nodes, err := r.host().nvidiaNodes(g); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, %v; want %q", paths(nodes), err, want)
		}
	}
}

// A card that is missing after a reboot can move the others' addresses: the task that
// comes back gets the node of its own GPU or none.
func TestNVIDIANodeOfAGPUThatHasMoved(t *testing.T) {
	r := nvidiaTree(t)
	put := func(pci, uuid string, minor int) {
		r.file("proc/driver/nvidia/gpus/"+pci+"/information", fmt.Sprintf("GPU UUID: \t %s\nDevice Minor: \t %d\n", uuid, minor))
	}
	put("0000:1b:00.0", "GPU-2222", 0)
	put("0000:3b:00.0", "GPU-????????-????-????-????-????????????", 3)
	for _, c := range []struct {
		id, pci string
		want    string // node or part of the error
	}{
		{"GPU-2222", "0000:1b:00.0", "/dev/nvidia0"},
		{"GPU-2222", "0000:3b:00.0", "/dev/nvidia3"}, // whose GPU is there is not told
		{"GPU-1111", "0000:1b:00.0", "GPU GPU-1111 is no longer on the host, and its address 0000:1b:00.0 now has GPU-2222"},
	} {
		own, err := nvidiakernel.OwnNodes(r.host().root(), gpu.Grant{GPUs: []gpu.ID{gpu.ID(c.id)}, PCI: []string{c.pci}})
		if got := strings.Join(own, " ") + fmt.Sprint(err); !strings.Contains(got, c.want) {
			t.Errorf("%s at %s: %s, want %s", c.id, c.pci, got, c.want)
		}
	}
	put("0000:3b:00.0", "GPU-1111", 3)
	own, err := nvidiakernel.OwnNodes(r.host().root(), gpu.Grant{GPUs: []gpu.ID{"GPU-1111"}, PCI: []string{"0000:1b:00.0"}})
	if err != nil || !slices.Equal(own, []string{"/dev/nvidia3"}) {
		t.Errorf("moved: %v, %v", own, err)
	}
}

func TestAMDNodes(t *testing.T) {
	old := amdTree(t)
	// A newer kernel keeps the function and writes the partition above it.
	young := tree{t, t.TempDir()}
	young.node("dev/kfd", 0)
	for i, location := range []int{0xc100, 0xc100 | 1<<28, 0xc100 | 2<<28} {
		young.node(fmt.Sprintf("dev/dri/renderD%d", 128+i), 0)
		young.file(fmt.Sprintf("sys/class/kfd/kfd/topology/nodes/%d/properties", 9-i), fmt.Sprintf("simd_count 152\ndrm_render_minor %d\nlocation_id %d\ndomain 0\n", 128+i, location))
	}
	// Virtual functions are cards of their own.
	virtual := tree{t, t.TempDir()}
	virtual.node("dev/kfd", 0)
	for i := range 2 {
		virtual.node(fmt.Sprintf("dev/dri/renderD%d", 128+i), 0)
		virtual.file(fmt.Sprintf("sys/class/kfd/kfd/topology/nodes/%d/properties", i+1), fmt.Sprintf("simd_count 416\ndrm_render_minor %d\nlocation_id %d\ndomain 0\n", 128+i, 0xc102+i))
		virtual.file(fmt.Sprintf("sys/bus/pci/devices/0000:c1:00.%d/drm/renderD%d/dev", 2+i, 128+i), "")
	}
	// A host whose topology cannot be read still has PCI's own folder.
	bare := tree{t, t.TempDir()}
	bare.node("dev/kfd", 0)
	bare.node("dev/dri/renderD130", 0)
	bare.file("sys/bus/pci/devices/0000:c6:00.0/drm/renderD130/dev", "226:130\n")
	for _, c := range []struct {
		tree    tree
		id      gpu.ID
		pci     string
		want    int
		problem string
	}{
		{old, "0000:c1:00.0-p0", "0000:c1:00.0", 128, ""},
		{old, "0000:c1:00.0-p1", "0000:c1:00.0", 129, ""},
		{old, "0000:c6:00.0", "0000:c6:00.0", 130, ""},
		{old, "0000:c1:00.0-p2", "0000:c1:00.0", 0, "topology has 2 partitions"},
		{old, "0000:c1:00.0", "0000:c1:00.0", 0, "is now split into 2 partitions"},
		{old, "0000:99:00.0", "0000:99:00.0", 0, "has no render node"},
		{young, "0000:c1:00.0-p2", "0000:c1:00.0", 130, ""},
		{virtual, "0000:c1:00.3", "0000:c1:00.3", 129, ""},
		{bare, "0000:c6:00.0", "0000:c6:00.0", 130, ""},
	} {
		nodes, err := c.tree.host().amdNodes(gpu.Grant{GPUs: []gpu.ID{c.id}, PCI: []string{c.pci}})
		if c.problem != "" {
			if err == nil || !strings.Contains(err.Error(), c.problem) {
				t.Errorf("%s: %v, want %q", c.id, err, c.problem)
			}
			continue
		}
		if want := []string{"/dev/kfd", fmt.Sprintf("/dev/dri/renderD%d", c.want)}; err != nil || !slices.Equal(paths(nodes), want) {
			t.Errorf("%s: %v, %v; want %v", c.id, paths(nodes), err, want)
		}
	}
}

// A partition whose neighbour cannot be read keeps its render node.
func TestPartitionsKeepTheirNumbers(t *testing.T) {
	r := amdTree(t)
	r.file("sys/class/kfd/kfd/topology/nodes/1/properties", "")
	nodes, err := r.host().amdNodes(gpu.Grant{GPUs: []gpu.ID{"0000:c1:00.0-p1"}, PCI: []string{"0000:c1:00.0"}})
	if want := []string{"/dev/kfd", "/dev/dri/renderD129"}; err != nil || !slices.Equal(paths(nodes), want) {
		t.Errorf("%v, %v; want %v", paths(nodes), err, want)
	}
	if nodes, err := r.host().amdNodes(gpu.Grant{GPUs: []gpu.ID{"0000:c1:00.0-p0"}, PCI: []string{"0000:c1:00.0"}}); err == nil {
		t.Errorf("an unreadable partition has %v", paths(nodes))
	}
}

// Two partitions never share a render node.
func TestPartitionsAreDisjoint(t *testing.T) {
	r := amdTree(t)
	seen := map[string]gpu.ID{}
	for _, id := range []gpu.ID{"0000:c1:00.0-p0", "0000:c1:00.0-p1", "0000:c6:00.0"} {
		pci, _, _ := strings.Cut(string(id), "-p")
		nodes, err := r.host().amdNodes(gpu.Grant{GPUs: []gpu.ID{id}, PCI: []string{pci}})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths(nodes)[1:] {
			if seen[p] != "" {
				t.Errorf("%s belongs to %s and %s", p, seen[p], id)
			}
			seen[p] = id
		}
	}
}

func TestGroupsAreTheHosts(t *testing.T) {
	r := amdTree(t)
	nodes, err := r.host().amdNodes(gpu.Grant{GPUs: []gpu.ID{"0000:c6:00.0"}, PCI: []string{"0000:c6:00.0"}})
	if err != nil {
		t.Fatal(err)
	}
	got := r.host().gids(nodes, "video", "render")
	slices.Sort(got)
	if want := []string{"44", "992"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Trees captured from real machines: every GPU and partition has a render node,
// and no two share one.
func TestCapturedTopologies(t *testing.T) {
	archive := "../../../shared/data/captures/amd/kfd-vega10-mi210-mi308cpx.tar.gz"
	if _, err := os.Stat(archive); err != nil {
		t.Skipf("no captures: %v", err)
	}
	dir := t.TempDir()
	if out, err := exec.Command("tar", "xzf", archive, "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	var tops []string
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == "nodes" {
			tops = append(tops, filepath.Dir(path))
		}
		return nil
	})
	for _, top := range tops {
		if strings.Contains(top, "topology-parsing/") {
			continue // its second GPU is a copy of the first, with its PCI address
		}
		r := tree{t, t.TempDir()}
		if err := os.Symlink(top, r.make("sys/class/kfd/kfd/topology")); err != nil {
			t.Fatal(err)
		}
		nodes, _ := amdkernel.Nodes(r.host().root())
		parts := map[string]int{}
		for _, n := range nodes {
			parts[strings.TrimSuffix(n.Address.First().String(), ".0")]++
		}
		minors := map[int]bool{}
		for slot, n := range parts {
			for p := range n {
				id := gpu.ID(slot + ".0")
				if n > 1 {
					id = gpu.ID(fmt.Sprintf("%s.0-p%d", slot, p))
				}
				minor, err := amdkernel.RenderMinor(r.host().root(), nodes, id, slot+".0")
				if err != nil || minors[minor] {
					t.Errorf("%s: %s: render node %d, %v", filepath.Base(top), id, minor, err)
				}
				minors[minor] = true
			}
		}
		t.Logf("%s: %d nodes of %d cards", strings.TrimPrefix(top, dir), len(nodes), len(parts))
	}
}
