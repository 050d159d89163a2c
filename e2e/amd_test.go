package e2e

import (
	"context"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/cluster"
	"aliquot.example/e2e/modelserver/hardware"
	"aliquot.example/e2e/rack"
	"aliquot.example/internal/gpu"
)

// amdJob requests devices of one AMD group.
var amdJob = strings.Replace(partJob, `device "nvidia/gpu"`, `device "amd/gpu"`, 1)

// TestAMDMasks divides an MI210 into slices by CU masks.
func TestAMDMasks(t *testing.T) {
	ctx, c := start(t, cluster.Options{AMD: &cluster.AMD{GPUs: rack.AMDHost(rack.MI210, 2, "", ""), Release: "26.2"}})
	vars := sliceVars(c, "masks", cluster.Vars{"gpus": "^mi210-", "require_attachment": false})
	allocs := run(ctx, t, c, slicesJob, vars, 2)
	seen := infos(ctx, t, c, allocs)
	taken := new(big.Int)
	for group, want := range map[string]struct{ slices, units int }{"small": {6, 30}, "large": {10, 50}} {
		info := seen[group]
		if info.Grant == nil || info.Grant.Slices != want.slices || info.Grant.Units != want.units || info.Grant.Class != "mi210" {
			t.Errorf("%s: granted %+v, want %d slices of %d units", group, info.Grant, want.slices, want.units)
			continue
		}
		if info.Variant != "amd" {
			t.Errorf("%s: the image is for %s", group, info.Variant)
		}
		if info.Grant.Enforcement.Level() != gpu.LevelCooperative || info.Grant.MemoryEnforcement != gpu.LevelNone {
			t.Errorf("%s: enforcement %s, of memory %s", group, info.Grant.Enforcement, info.Grant.MemoryEnforcement)
		}
		mask := hsaMask(t, info)
		if n := bits(mask); n != want.units {
			t.Errorf("%s: %d units in HSA_CU_MASK %q, want %d", group, n, info.Environment["HSA_CU_MASK"], want.units)
		}
		if hip := info.Environment["ROC_GLOBAL_CU_MASK"]; hip != "0x"+mask.Text(16) {
			t.Errorf("%s: ROC_GLOBAL_CU_MASK %s is not HSA_CU_MASK %s", group, hip, info.Environment["HSA_CU_MASK"])
		}
		if new(big.Int).And(taken, mask).Sign() != 0 {
			t.Errorf("%s: HSA_CU_MASK %q shares compute units with the other task", group, info.Environment["HSA_CU_MASK"])
		}
		taken.Or(taken, mask)
		if got := info.Environment["ROCR_VISIBLE_DEVICES"]; got != "GPU-1a2b3c4d5e6f0001" {
			t.Errorf("%s: ROCR_VISIBLE_DEVICES %q", group, got)
		}
		// The affinity fills the first GPU, whose render node is 128.
		if want := []string{"/dev/dri/renderD128", "/dev/kfd"}; !slices.Equal(info.DeviceNodes, want) {
			t.Errorf("%s: device nodes %v, want %v", group, info.DeviceNodes, want)
		}
	}
	for _, alloc := range allocs {
		// In the rack's /etc/group, video is 44 and render 109.
		if groups := inspect(ctx, t, alloc, "{{.HostConfig.GroupAdd}}"); !strings.Contains(groups, "44") || !strings.Contains(groups, "109") {
			t.Errorf("%s: groups %s, want the host's of video and render", alloc.TaskGroup, groups)
		}
	}
	t.Run("attachment and statistics", func(t *testing.T) { amdAttachment(ctx, t, c) })
	t.Run("health", func(t *testing.T) { amdHealth(ctx, t, c) })
}

// hsaMask parses HSA_CU_MASK, which must name GPU 0.
func hsaMask(t *testing.T, info hardware.Info) *big.Int {
	t.Helper()
	mask := new(big.Int)
	list, ok := strings.CutPrefix(info.Environment["HSA_CU_MASK"], "0:")
	if !ok {
		t.Fatalf("HSA_CU_MASK %q is not of GPU 0", info.Environment["HSA_CU_MASK"])
	}
	for _, part := range strings.Split(list, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, errFirst := strconv.Atoi(from)
		last, errLast := strconv.Atoi(to)
		if errFirst != nil || errLast != nil {
			t.Fatalf("HSA_CU_MASK has %q", part)
		}
		for cu := first; cu <= last; cu++ {
			mask.SetBit(mask, cu, 1)
		}
	}
	return mask
}

func bits(n *big.Int) int { return strings.Count(n.Text(2), "1") }

// amdAttachment makes a task's process appear to open the compute driver, as the kernel would show
// it, and checks the driver's event and Nomad's statistics.
func amdAttachment(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	job := submit(ctx, t, c, amdJob, cluster.Vars{"name": "attached", "image": c.Image, "group": "mi210-1", "count": 4})
	allocs, err := c.AwaitRunning(ctx, job, 1)
	if err != nil {
		t.Fatal(err)
	}
	open(ctx, t, c, allocs[0], 3<<30, 13)
	if message, err := c.AwaitEvent(ctx, allocs[0].ID, "has opened the compute driver"); err != nil {
		t.Error(err)
	} else if !strings.Contains(message, "mi210-1") {
		t.Errorf("event %q", message)
	}
	err = cluster.AwaitWithin(ctx, 30*time.Second, "the task's use of the GPU", func() string {
		usage, err := c.Nomad.Allocations().Stats(allocs[0], nil)
		if err != nil {
			return err.Error()
		}
		for _, group := range usage.ResourceUsage.DeviceStats {
			for _, instance := range group.InstanceStats {
				used := instance.Stats.Attributes["task_memory"]
				busy := instance.Stats.Attributes["task_busy"]
				if used != nil && used.FloatNumeratorVal != nil && *used.FloatNumeratorVal == 3<<10 && busy != nil && *busy.FloatNumeratorVal == 12.5 {
					return ""
				}
			}
		}
		return fmt.Sprintf("there is %+v", usage.ResourceUsage.DeviceStats)
	})
	if err != nil {
		t.Error(err)
	}
}

// open makes an allocation's process use its GPUs until the end of the test.
func open(ctx context.Context, t *testing.T, c *cluster.Cluster, alloc *nomad.Allocation, bytes uint64, units int) {
	t.Helper()
	closeGPU, err := c.OpenGPU(ctx, alloc, bytes, units)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := closeGPU(); err != nil {
			t.Error(err)
		}
	})
}

// amdHealth breaks one of two cards.
func amdHealth(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	pci := c.AMD.GPUs()[1].PCI
	if err := c.AMD.EditGPU(pci, func(g *rack.AMDGPU) { g.UE = 2 }); err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitHealth(ctx, "mi210-1", 0); err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitHealth(ctx, "mi210-0", 20); err != nil {
		t.Error("the other card must stay healthy:", err)
	}
	if err := c.AMD.EditGPU(pci, func(g *rack.AMDGPU) { g.UE = 0 }); err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitHealth(ctx, "mi210-1", 20); err != nil {
		t.Error("the card must come back when the cause is gone:", err)
	}
}

// TestAMDPartitions divides an MI300X into compute partitions and grants them.
func TestAMDPartitions(t *testing.T) {
	ctx, c := start(t, cluster.Options{AMD: &cluster.AMD{
		GPUs: rack.AMDHost(rack.MI300X, 1, "SPX", "NPS1"), Release: "24.7",
		Device: `gpu "*" {
			mode      = "partition"
			partition = "cpx"
		}`,
	}})
	const group = "mi300x-cpx-nps1"
	if err := c.AwaitHealth(ctx, group, 8); err != nil {
		t.Fatal(err)
	}
	one := submit(ctx, t, c, amdJob, cluster.Vars{"name": "one", "image": c.Image, "group": group, "count": 1})
	two := submit(ctx, t, c, amdJob, cluster.Vars{"name": "two", "image": c.Image, "group": group, "count": 2})
	running := map[string][]*nomad.Allocation{}
	for _, job := range []string{one, two} {
		allocs, err := c.AwaitRunning(ctx, job, 1)
		if err != nil {
			t.Fatal(err)
		}
		// A task that opens its partition counts as attached; otherwise it would be stopped.
		open(ctx, t, c, allocs[0], 1<<30, 0)
		running[job] = allocs
	}
	granted := map[gpu.ID]bool{}
	for job, count := range map[string]int{one: 1, two: 2} {
		allocs := running[job]
		info := infos(ctx, t, c, allocs)["server"]
		if info.Grant == nil || len(info.Grant.GPUs) != count || info.Grant.Units != 38*count || info.Grant.Enforcement.Level() != gpu.LevelHard {
			t.Fatalf("%s: granted %+v", job, info.Grant)
		}
		want := []string{"/dev/kfd"}
		var visible []string
		for i, id := range info.Grant.GPUs {
			if granted[id] {
				t.Errorf("%s is granted twice", id)
			}
			granted[id] = true
			want = append(want, fmt.Sprintf("/dev/dri/renderD%d", renderOf(t, id)))
			visible = append(visible, strconv.Itoa(i))
		}
		slices.Sort(want)
		if !slices.Equal(info.DeviceNodes, want) {
			t.Errorf("%s: device nodes %v, want %v", job, info.DeviceNodes, want)
		}
		if got := info.Environment["ROCR_VISIBLE_DEVICES"]; got != strings.Join(visible, ",") || info.Environment["HSA_CU_MASK"] != "" {
			t.Errorf("%s: ROCR_VISIBLE_DEVICES %q, HSA_CU_MASK %q", job, got, info.Environment["HSA_CU_MASK"])
		}
		for minor := 128; minor < 136; minor++ {
			node := fmt.Sprintf("/dev/dri/renderD%d", minor)
			if allowed := opens(ctx, t, c, allocs[0], node); allowed != slices.Contains(want, node) {
				t.Errorf("%s: opening %s is allowed: %v, granted %v", job, node, allowed, want)
			}
		}
	}
}

// renderOf returns the minor number of the render node of a partition of the rack's first card.
func renderOf(t *testing.T, id gpu.ID) int {
	t.Helper()
	_, part, ok := strings.Cut(string(id), "-p")
	n, err := strconv.Atoi(part)
	if !ok || err != nil {
		t.Fatalf("GPU %s is no partition", id)
	}
	return 128 + n
}

// opens reports whether a process of the allocation's container could open a device node of the
// host. No driver serves the rack's nodes: if the device cgroup allows an open, it fails with "no
// such device", otherwise with "operation not permitted".
func opens(ctx context.Context, t *testing.T, c *cluster.Cluster, alloc *nomad.Allocation, node string) bool {
	t.Helper()
	pid := inspect(ctx, t, alloc, "{{.State.Pid}}")
	script := fmt.Sprintf("echo $$ > %q && exec cat %q", devicesCgroup(t, pid), c.Dir+"/root"+node)
	out, err := exec.CommandContext(ctx, "sh", "-c", script).CombinedOutput()
	switch text := string(out); {
	case strings.Contains(text, "No such device"):
		return true
	case strings.Contains(text, "Operation not permitted"):
		return false
	default:
		t.Fatalf("%s: %v: %s", script, err, text)
		return false
	}
}

// inspect returns a field of an allocation's container.
func inspect(ctx context.Context, t *testing.T, alloc *nomad.Allocation, format string) string {
	t.Helper()
	out, err := exec.CommandContext(ctx, "docker", "inspect", "--format", format, "server-"+alloc.ID).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// devicesCgroup returns the file through which a process joins the cgroup that controls the devices
// of pid.
func devicesCgroup(t *testing.T, pid string) string {
	t.Helper()
	text, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	unified := ""
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		if parts[1] == "devices" {
			return "/sys/fs/cgroup/devices" + parts[2] + "/cgroup.procs"
		}
		if parts[1] == "" {
			unified = "/sys/fs/cgroup" + parts[2] + "/cgroup.procs"
		}
	}
	return unified
}

// TestMixedVendors runs one job on a node with an NVIDIA and an AMD GPU.
func TestMixedVendors(t *testing.T) {
	ctx, c := start(t, cluster.Options{Rack: "h100", AMD: &cluster.AMD{GPUs: rack.AMDHost(rack.MI300X, 1, "", ""), Release: "26.5"}})
	for group, n := range map[string]int{"h100-0": 20, "mi300x-0": 20} {
		if err := c.AwaitHealth(ctx, group, n); err != nil {
			t.Fatal(err)
		}
	}
	// Neither GPU has room for both groups, so each group runs on another vendor's GPU.
	vars := sliceVars(c, "either", cluster.Vars{"gpus": ".", "small": 12, "large": 15, "require_attachment": false})
	seen := map[gpu.Vendor]hardware.Info{}
	for _, info := range infos(ctx, t, c, run(ctx, t, c, slicesJob, vars, 2)) {
		if info.Grant == nil {
			t.Fatal("a task has no GPU")
		}
		seen[info.Grant.Vendor] = info
		if info.Variant != string(info.Grant.Vendor) {
			t.Errorf("the image for %s runs on %s", info.Variant, info.Grant.Group)
		}
	}
	nvidia, amd := seen[gpu.NVIDIA], seen[gpu.AMD]
	if nvidia.Grant == nil || amd.Grant == nil {
		t.Fatalf("the tasks are on %v, want one of either vendor", seen)
	}
	if nvidia.Environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "" || nvidia.Environment["HSA_CU_MASK"] != "" {
		t.Errorf("environment on NVIDIA: %v", nvidia.Environment)
	}
	if amd.Environment["HSA_CU_MASK"] == "" || amd.Environment["CUDA_MPS_PIPE_DIRECTORY"] != "" || slices.ContainsFunc(amd.DeviceNodes, func(n string) bool { return strings.Contains(n, "nvidia") }) {
		t.Errorf("environment on AMD: %v, nodes %v", amd.Environment, amd.DeviceNodes)
	}
}
