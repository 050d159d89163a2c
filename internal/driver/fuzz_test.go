package driver

import (
	"regexp"
	"testing"

	"aliquot.example/internal/gpu"
)

// Whatever the document holds, what goes on to programs that run as root is a version of
// digits and dots.
func FuzzParseWanted(f *testing.F) {
	f.Add([]byte(`{"max": 2, "classes": {"h100": {"version": "580.126.09", "drain_deadline": "1h"}}}`))
	f.Add([]byte(`{"classes": {"*": {"version": "580.1 -o x=y"}}}`))
	f.Add([]byte(`[]`))
	plain := regexp.MustCompile(`^[0-9.]+$`)
	f.Fuzz(func(t *testing.T, text []byte) {
		w, err := ParseWanted(text)
		if err != nil {
			return
		}
		if w.Max < 1 {
			t.Errorf("max is %d", w.Max)
		}
		for class, want := range w.Classes {
			if !plain.MatchString(want.Version) {
				t.Errorf("class %q: version %q", class, want.Version)
			}
		}
	})
}

// What apt-get prints is never taken for harmless where it names a kernel.
func FuzzCheckSimulation(f *testing.F) {
	f.Add("Inst nvidia-smi [535.1] (535.2 Debian [amd64])\nConf nvidia-smi\n")
	f.Add("Remv")
	f.Fuzz(func(t *testing.T, text string) {
		_ = CheckSimulation(text, gpu.NVIDIA)
		if CheckSimulation(text+"\nInst linux-image-6.1.0-60-amd64 (6.1.200-1 Debian [amd64])\n", gpu.NVIDIA) == nil {
			t.Error("a new kernel passes")
		}
	})
}
