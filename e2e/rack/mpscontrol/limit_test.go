package main

import (
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"aliquot.example/e2e/rack/wire"
)

func TestLimits(t *testing.T) {
	for text, want := range map[string]map[string]string{
		"":                   {},
		"0=1G,1=512MB":       {"0": "1G", "1": "512MB"},
		"GPU-1 = 24302M":     {"GPU-1": "24302M"},
		"0=1024":             {}, // without a unit
		"0=1.5G,1=2G,2=,3=G": {"1": "2G"},
		"0=-1G,1=0M":         {},
	} {
		if got := limits(text); !reflect.DeepEqual(got, want) {
			t.Errorf("limits(%q) = %v, want %v", text, got, want)
		}
	}
	if got := limitOf(map[string]string{"0": "1G", "GPU-1": "512M"}, 0, "GPU-1"); got != 512 {
		t.Errorf("a limit by UUID beats one by ordinal: got %d MiB", got)
	}
}

func TestPortionNeverExceedsThePercentage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		step := rapid.SampledFrom([]int{1, 2, 4}).Draw(t, "step")
		d := wire.Device{SMs: rapid.IntRange(4, 160).Draw(t, "SMs") / step * step, Step: step}
		pct := rapid.Float64Range(0.1, 100).Draw(t, "percentage")
		got := portion(d, pct)
		if got%step != 0 || got < step || (got > step && float64(got) > float64(d.SMs)*pct/100+1e-6) {
			t.Fatalf("portion(%d SMs in steps of %d, %v%%) = %d", d.SMs, step, pct, got)
		}
	})
}

func TestMaxClients(t *testing.T) {
	for _, c := range []struct {
		compute, cuda string
		want          int
	}{{"6.1", "13.2", 16}, {"7.0", "12.4", 48}, {"7.5", "13.0", 48}, {"9.0", "13.1", 60}, {"10.0", "14.0", 60}} {
		if got := maxClients(wire.Device{Compute: c.compute}, c.cuda); got != c.want {
			t.Errorf("compute capability %s, CUDA %s: %d clients, want %d", c.compute, c.cuda, got, c.want)
		}
	}
}
