package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"aliquot.example/e2e/cluster"
	"aliquot.example/internal/doctor"
)

// TestPackages installs a release's packages on hosts that have never had Go, as docs/install.md
// says: a Nomad agent loads the plugins from where the packages put them, doctor finds nothing
// wrong, and the first job serves through the gateway. If packages of an older release are given,
// they are installed first, and the host is upgraded underneath the job: with plugins of both
// releases side by side, and then with only the newer ones.
//
// ALIQUOT_PACKAGES and ALIQUOT_PACKAGES_OLDER name folders from scripts/release, and ALIQUOT_ROOTS
// names archives from scripts/debian-root; scripts/release-check sets them.
func TestPackages(t *testing.T) {
	dir, older := os.Getenv("ALIQUOT_PACKAGES"), os.Getenv("ALIQUOT_PACKAGES_OLDER")
	if dir == "" {
		t.Skip("needs the packages of a release in ALIQUOT_PACKAGES: use make release-check")
	}
	for _, root := range strings.Fields(os.Getenv("ALIQUOT_ROOTS")) {
		t.Run(filepath.Base(filepath.Dir(root)), func(t *testing.T) {
			p := packages{newer: debs(t, dir), older: debs(t, dir)}
			if older != "" {
				p.older = debs(t, older)
			}
			p.serve(t, root, older != "")
		})
	}
}

// packages holds the packages of two releases, by name.
type packages struct {
	newer, older map[string]string
	c            *cluster.Cluster
}

func debs(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, name := range []string{"aliquot", "aliquot-nomad"} {
		paths, err := filepath.Glob(filepath.Join(dir, name+"_*_amd64.deb"))
		if err != nil || len(paths) != 1 {
			t.Fatalf("%s has %v for %s, want one package (%v)", dir, paths, name, err)
		}
		found[name] = paths[0]
	}
	return found
}

func (p packages) serve(t *testing.T, root string, upgrade bool) {
	ctx, c := start(t, cluster.Options{Rack: "h100-t4", Host: &cluster.Host{Archive: root, Packages: []string{p.older["aliquot"], p.older["aliquot-nomad"]}}})
	p.c = c
	t.Logf("nomad node status says\n%s", p.nodeStatus(ctx, t))
	p.healthy(ctx, t)
	g := startGateway(ctx, t, c)
	allocs := run(ctx, t, c, httpJob, appVars(c, 1), 1)
	first := allocs[0]
	p.answers(ctx, t, g)
	if !upgrade {
		return
	}
	// The order follows docs/install.md: packages that are not specific to nodes come first.
	if err := c.Install(ctx, p.newer["aliquot"]); err != nil {
		t.Fatal(err)
	}
	p.healthy(ctx, t)
	for i, step := range []struct {
		what   string
		change func(ctx context.Context, t *testing.T)
	}{
		{"device plugins of the next release", func(ctx context.Context, t *testing.T) {
			p.put(ctx, t, p.newer, "aliquot-device-nvidia", "aliquot-device-amd", "aliquot-device-intel")
		}},
		{"the driver of the next release alone", func(ctx context.Context, t *testing.T) {
			p.put(ctx, t, p.newer, "aliquot-driver")
			p.put(ctx, t, p.older, "aliquot-device-nvidia", "aliquot-device-amd", "aliquot-device-intel")
		}},
		{"the next release", func(ctx context.Context, t *testing.T) {
			if err := c.Install(ctx, p.newer["aliquot-nomad"]); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		ok := t.Run(step.what, func(t *testing.T) {
			step.change(ctx, t)
			p.restarted(ctx, t)
			p.answers(ctx, t, g)
			// Running tasks continue, and new ones run beside them.
			count := i + 2
			if _, _, err := c.Nomad.Jobs().Scale("app", "server", &count, "upgraded", false, nil, nil); err != nil {
				t.Fatal(err)
			}
			allocs, err := c.AwaitRunning(ctx, "app", count)
			if err != nil {
				t.Fatal(err)
			}
			infos(ctx, t, c, allocs) // each opens the GPU that it was granted
			if now := allocs[0]; now.ID != first.ID || now.TaskStates["server"].Restarts != 0 {
				t.Errorf("replica %s was replaced by %s, or restarted: %s", first.ID, now.ID, cluster.Events(now.TaskStates))
			}
			p.answers(ctx, t, g)
		})
		if !ok {
			return
		}
	}
	p.healthy(ctx, t)
}

// put replaces plugins on the host with those of a release.
func (p packages) put(ctx context.Context, t *testing.T, from map[string]string, names ...string) {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", from["aliquot-nomad"], dir).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v: %s", err, out)
	}
	for _, name := range names {
		path := "/opt/nomad/data/plugins/" + name
		if err := p.c.Put(filepath.Join(dir, path), path); err != nil {
			t.Fatal(err)
		}
	}
}

// restarted restarts the agent, which loads the current plugins.
func (p packages) restarted(ctx context.Context, t *testing.T) {
	t.Helper()
	p.c.StopAgent()
	if err := p.c.StartAgent(ctx); err != nil {
		t.Fatal(err)
	}
	for _, group := range []string{"h100-0", "t4-1"} {
		if err := p.c.AwaitHealth(ctx, group, 20); err != nil {
			t.Fatal(err)
		}
	}
}

// answers waits for an answer of the model server through the gateway.
func (p packages) answers(ctx context.Context, t *testing.T, g gatewayUnderTest) {
	t.Helper()
	if status, body, err := g.ask(ctx); err != nil || status != 200 {
		t.Errorf("the gateway answers %d %q %v", status, body, err)
	}
}

// nodeStatus returns the host's status as its administrator sees it.
func (p packages) nodeStatus(ctx context.Context, t *testing.T) string {
	t.Helper()
	node, err := p.c.Node()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.c.OnHost(ctx, []string{"NOMAD_ADDR=http://" + node.HTTPAddr}, "nomad", "node", "status", "-self", "-stats")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "aliquot") || !strings.Contains(out, "nvidia/gpu/h100-0") {
		t.Errorf("nomad node status shows no driver or no GPU:\n%s", out)
	}
	return out
}

// healthy checks that the installed doctor finds nothing that keeps the node from serving.
func (p packages) healthy(ctx context.Context, t *testing.T) {
	t.Helper()
	node, err := p.c.Node()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.c.OnHost(ctx, []string{"NOMAD_ADDR=http://" + node.HTTPAddr}, "aliquot", "doctor", "-json")
	var list []doctor.Finding
	if json.Unmarshal([]byte(out), &list) != nil || len(list) == 0 {
		t.Fatalf("doctor printed %q (%v)", out, err)
	}
	for _, f := range list {
		if f.Level == doctor.Failure {
			t.Errorf("doctor finds %s", fmt.Sprint(f))
		}
	}
	found(t, list, "driver", doctor.OK, "")
	found(t, list, "devices", doctor.OK, "")
}
