package e2e

import (
	"slices"
	"strings"
	"testing"

	"aliquot.example/e2e/cluster"
	"aliquot.example/internal/doctor"
)

// TestBadConfig starts agents with invalid plugin configurations. Each must exit with a line that
// names the key, the value and the fix.
func TestBadConfig(t *testing.T) {
	for _, test := range []struct {
		name           string
		device, driver string
		want           []string
	}{
		{"too many slices", `gpu "*" { slices = 1000 }`, "", []string{"slices", "1000", "100"}},
		{"unknown mode", `gpu "*" { mode = "shred" }`, "", []string{"mode", "shred", "shared", "whole", "mig"}},
		{"no duration", `fingerprint_period = "often"`, "", []string{"fingerprint_period", "often", "2s"}},
		{"unknown attach", "", `attach = "magic"`, []string{"attach", "magic", "runtime", "cdi", "nodes"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			said := refused(t, cluster.Options{Rack: "t4", Device: test.device, Driver: test.driver})
			if !oneLine(said, test.want) {
				t.Errorf("the agent said\n%s\nwant one line that names %q", said, test.want)
			}
		})
	}
}

// TestNoLibrary starts an agent on a host without NVIDIA's library or hardware. It must run and
// offer no GPUs.
func TestNoLibrary(t *testing.T) {
	ctx, c := start(t, cluster.Options{})
	groups, err := c.Groups()
	if err != nil || len(groups) != 0 {
		t.Fatalf("the node offers %v (%v), want nothing", groups, err)
	}
	log := c.Log("nomad-client")
	if lines := strings.Count(log, "libnvidia-ml.so.1"); lines == 0 || lines > 4 {
		t.Errorf("the log names the missing library %d times, want it said once per start", lines)
	}
	if strings.Contains(log, "panic") {
		t.Error("the log has a panic")
	}
	found(t, findings(ctx, t, c), "devices", doctor.Failure, "aliquot-device-nvidia is configured, but NVIDIA's kernel driver is not loaded")
	// Tasks without a GPU run.
	job := submit(ctx, t, c, withConfig(`image = var.image
		image_tag_by_hardware = true`), cluster.Vars{"name": "no-gpu", "image": c.Image, "slices": 0})
	allocs, err := c.AwaitRunning(ctx, job, 1)
	if err != nil {
		t.Fatal(err)
	}
	if info := infos(ctx, t, c, allocs)["server"]; info.Variant != "cpu" {
		t.Errorf("the image is for %s, want cpu", info.Variant)
	}
}

// oneLine reports whether one line of a text contains all words.
func oneLine(text string, words []string) bool {
	for line := range strings.Lines(text) {
		if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) }) {
			return true
		}
	}
	return false
}
