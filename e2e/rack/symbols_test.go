package rack_test

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// Other programs crash at the first function that the library lacks, so it must export every
// function in go-nvml's header.
func TestTheLibraryHasEveryFunction(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/NVIDIA/go-nvml").Output()
	if err != nil {
		t.Fatal(err)
	}
	header, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "pkg/nvml/nvml.h"))
	if err != nil {
		t.Fatal(err)
	}
	lib, err := elf.Open(filepath.Join(tools.Lib, "libnvidia-ml.so.1"))
	if err != nil {
		t.Fatal(err)
	}
	defer lib.Close()
	symbols, err := lib.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, s := range symbols {
		have[s.Name] = true
	}
	declared := regexp.MustCompile(`(?m)^nvmlReturn_t DECLDIR (nvml\w+)\(`).FindAllSubmatch(header, -1)
	if len(declared) < 350 {
		t.Fatalf("%d functions in the header", len(declared))
	}
	for _, m := range declared {
		if name := string(m[1]); !have[name] {
			t.Errorf("the library lacks %s", name)
		}
	}
}

// askAsOthers makes the calls with which other programs failed on the rack: nomad-device-nvidia's
// for the display, gpu-feature-discovery's for a MIG device's profile, and those of go-nvml's
// examples.
func askAsOthers(lib nvml.Interface, print func(any)) error {
	d, r := lib.DeviceGetHandleByIndex(0)
	if r != nvml.SUCCESS {
		return must("GPU 0", r)
	}
	if mode, r := d.GetDisplayMode(); r != nvml.SUCCESS || mode != nvml.FEATURE_DISABLED {
		return must(fmt.Sprintf("display mode %v", mode), r)
	}
	if _, r := d.GetAddressingMode(); r != nvml.ERROR_NOT_SUPPORTED {
		return must("addressing mode", r)
	}
	if s, r := lib.GpmQueryDeviceSupport(d); r != nvml.SUCCESS || s.IsSupportedDevice != 0 {
		return must("GPM", r)
	}
	var found []string
	count, _ := d.GetMaxMigDeviceCount()
	for i := range count {
		m, r := d.GetMigDeviceHandleByIndex(i)
		if r != nvml.SUCCESS {
			continue
		}
		gi, _ := m.GetGpuInstanceId()
		ci, _ := m.GetComputeInstanceId()
		instance, r := d.GetGpuInstanceById(gi)
		if r != nvml.SUCCESS {
			return must("GPU instance", r)
		}
		ofGPU, r := instance.GetInfo()
		if r != nvml.SUCCESS {
			return must("GPU instance's info", r)
		}
		compute, r := instance.GetComputeInstanceById(ci)
		if r != nvml.SUCCESS {
			return must("compute instance", r)
		}
		ofCompute, r := compute.GetInfo()
		if r != nvml.SUCCESS {
			return must("compute instance's info", r)
		}
		found = append(found, fmt.Sprintf("%d/%d: %d %d", ofGPU.Id, ofCompute.Id, ofGPU.ProfileId, ofCompute.ProfileId))
	}
	if _, r := d.GetGpuInstanceById(14); count > 0 && r != nvml.ERROR_NOT_FOUND {
		return must("a GPU instance that is not there", r)
	}
	print(found)
	return nil
}

func TestProgramsOfOthers(t *testing.T) {
	var got []string
	probe(t, tools, newRack(t, "h200-mig"), "others", &got)
	// GPU instance profiles as nvidia-smi numbers them: 9 is 3g, 14 is 2g, 19 is 1g.
	if want := "2/0: 9 0, 2/1: 9 1, 3/0: 14 1, 9/0: 19 0, 10/0: 19 0"; strings.Join(got, ", ") != want {
		t.Errorf("%q, want %s", got, want)
	}
	probe(t, tools, newRack(t, "h100"), "others", &got)
}
