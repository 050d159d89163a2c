package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/cluster"
	"aliquot.example/internal/gpu"
)

// TestIsolation submits jobs that try to reach GPUs which Nomad did not allocate to them.
func TestIsolation(t *testing.T) {
	ctx, c := start(t, cluster.Options{Rack: "h100-t4"})
	t.Run("no GPU without a grant", func(t *testing.T) { ungranted(ctx, t, c) })
	t.Run("nothing beyond the grant", func(t *testing.T) { beyond(ctx, t, c) })
	t.Run("CUDA counts from 0", func(t *testing.T) { countsFromZero(ctx, t, c) })
}

// ungranted runs jobs without a device block: one that requests a GPU by environment gets none, and
// one that requests a device node does not start.
func ungranted(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	job := submit(ctx, t, c, strings.Replace(withConfig(`image = "${var.image}:cpu"`), "driver = \"aliquot\"", `driver = "aliquot"
		env { NVIDIA_VISIBLE_DEVICES = "all" }`, 1), cluster.Vars{"name": "asks", "image": c.Image, "slices": 0})
	allocs, err := c.AwaitRunning(ctx, job, 1)
	if err != nil {
		t.Fatal(err)
	}
	if env := container(t, allocs[0], "{{range .Config.Env}}{{println .}}{{end}}"); !strings.Contains(env, "NVIDIA_VISIBLE_DEVICES=void\n") {
		t.Errorf("the container's environment is %s", env)
	}
	for name, config := range map[string]string{
		"node":   `devices = [{ host_path = "` + filepath.Join(c.Dir, "root/dev/nvidia0") + `" }]`,
		"folder": `devices = [{ host_path = "/dev" }]`,
		"volume": `volumes = ["/dev:/x"]`,
		"pids":   `pid_mode = "host"`,
		"caps":   `cap_add = ["SYS_ADMIN"]`,
	} {
		refuses(ctx, t, c, name, config, 0)
	}
}

// beyond tries the same with tasks that have slices.
func beyond(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	refuses(ctx, t, c, "second", `devices = [{ host_path = "`+filepath.Join(c.Dir, "root/dev/nvidia1")+`" }]`, 2)
	refuses(ctx, t, c, "pipes", `volumes = ["`+filepath.Join(c.Dir, "run")+`:/x"]`, 2)
}

func refuses(ctx context.Context, t *testing.T, c *cluster.Cluster, name, config string, slices int) {
	t.Helper()
	job := submit(ctx, t, c, withConfig("image = \"${var.image}:cpu\"\n"+config), cluster.Vars{"name": "refused-" + name, "image": c.Image, "slices": slices})
	if _, err := c.AwaitFailure(ctx, job, "config of task"); err != nil {
		t.Errorf("%s: %v", config, err)
	}
}

// countsFromZero runs a program that takes the entries of CUDA_VISIBLE_DEVICES as numbers, as vLLM
// does.
func countsFromZero(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	allocs := run(ctx, t, c, slicesJob, sliceVars(c, "ordinals", nil), 2)
	infos(ctx, t, c, allocs)
	for _, alloc := range allocs {
		if env := container(t, alloc, "{{range .Config.Env}}{{println .}}{{end}}"); !strings.Contains(env, "CUDA_VISIBLE_DEVICES=0\n") {
			t.Errorf("%s: %s", alloc.Name, env)
		}
	}
}

// container inspects the container of an allocation's only task.
func container(t *testing.T, alloc *nomad.Allocation, format string) string {
	t.Helper()
	for task := range alloc.TaskStates {
		out, err := exec.Command("docker", "inspect", "--format", format, task+"-"+alloc.ID).CombinedOutput()
		if err != nil {
			t.Fatalf("docker inspect: %v: %s", err, out)
		}
		return string(out)
	}
	t.Fatal("the allocation has no task")
	return ""
}

// TestMIGByCDI grants two MIG devices of one GPU, attached through the host's CDI specification,
// which lists the GPU's own node for both.
func TestMIGByCDI(t *testing.T) {
	ctx, c := start(t, cluster.Options{Rack: "a100-mig", Device: `gpu "*" { mode = "mig" }`, Driver: `attach = "cdi"`})
	file, err := c.Rack.File()
	if err != nil {
		t.Fatal(err)
	}
	var spec strings.Builder
	spec.WriteString("cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ncontainerEdits:\n  deviceNodes: [{path: /dev/nvidiactl}, {path: /dev/nvidia-uvm}]\ndevices:\n")
	nodes := map[gpu.ID][]string{}
	for _, g := range file.GPUs {
		for i, m := range g.MIG {
			caps := capNodes(t, c, g.Int("minor"), m.Int("gi"), m.Int("ci"))
			nodes[gpu.ID(m.UUID())] = caps
			fmt.Fprintf(&spec, "- name: \"%d:%d\"\n  containerEdits:\n    deviceNodes: [{path: /dev/nvidia%d}, {path: %s}, {path: %s}]\n", g.Int("minor"), i, g.Int("minor"), caps[0], caps[1])
		}
	}
	path := filepath.Join(c.Dir, "root/etc/cdi/nvidia.yaml")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(spec.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, group := range []string{"a100-40gb-mig-3g.20gb", "a100-40gb-mig-1g.5gb", "a100-40gb-mig-2g.10gb"} {
		job := submit(ctx, t, c, partJob, cluster.Vars{"name": gpu.Slug(group), "image": c.Image, "group": group, "count": 1})
		allocs, err := c.AwaitRunning(ctx, job, 1)
		if err != nil {
			t.Fatal(err)
		}
		infos(ctx, t, c, allocs)
		var got []string
		for _, node := range strings.Fields(container(t, allocs[0], "{{range .HostConfig.Devices}}{{println .PathInContainer}}{{end}}")) {
			if strings.Contains(node, "nvidia-caps") {
				got = append(got, node)
			}
		}
		want := nodes[devices(t, allocs[0])[0].GPU]
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s has the capability nodes %v, want %v", group, got, want)
		}
	}
}

// capNodes returns the capability nodes of a MIG device, as listed by the driver.
func capNodes(t *testing.T, c *cluster.Cluster, minor, gi, ci int) []string {
	t.Helper()
	var out []string
	base := filepath.Join(c.Dir, fmt.Sprintf("root/proc/driver/nvidia/capabilities/gpu%d/mig/gi%d", minor, gi))
	for _, access := range []string{base + "/access", fmt.Sprintf("%s/ci%d/access", base, ci)} {
		text, err := os.ReadFile(access)
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if _, err := fmt.Sscanf(string(text), "DeviceFileMinor: %d", &n); err != nil {
			t.Fatalf("%s: %v", access, err)
		}
		out = append(out, fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", n))
	}
	return out
}
