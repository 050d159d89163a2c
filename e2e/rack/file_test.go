package rack_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"aliquot.example/e2e/rack"
)

func section(t *rapid.T, name string) rack.Section {
	var s rack.Section
	for range rapid.IntRange(0, 4).Draw(t, name) {
		s.Add(rapid.StringMatching(`[a-z_]{1,8}`).Draw(t, "key"), rapid.StringMatching(`([A-Za-z0-9.:-]+( [a-z0-9]+)?)?`).Draw(t, "value"))
	}
	return s
}

func TestFileRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := &rack.File{Driver: section(t, "driver")}
		for range rapid.IntRange(0, 3).Draw(t, "gpus") {
			g := rack.GPU{Section: section(t, "gpu")}
			for range rapid.IntRange(0, 2).Draw(t, "migs") {
				g.MIG = append(g.MIG, section(t, "mig"))
			}
			for range rapid.IntRange(0, 2).Draw(t, "processes") {
				g.Processes = append(g.Processes, section(t, "process"))
			}
			f.GPUs = append(f.GPUs, g)
		}
		again, err := rack.Parse(f.String())
		if err != nil || again.String() != f.String() || len(again.GPUs) != len(f.GPUs) {
			t.Fatalf("%v:\n%s\nis not\n%s", err, again, f)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add("[driver]\nversion = 1 # note\n[gpu]\nuuid = GPU-1\n[mig]\ngi = 1\n[process]\npid = 3\n")
	f.Add("[mig]\n")
	f.Add("uuid = x")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := rack.Parse(text)
		if err != nil {
			return
		}
		if _, err := rack.Parse(file.String()); err != nil {
			t.Fatalf("%v in what was written for %q", err, text)
		}
	})
}

func TestMistakesAreNamed(t *testing.T) {
	for text, want := range map[string]string{
		"[mig]\ngi = 1":          "1: section [mig]",
		"[driver]\nversion 3":    `2: want key = value inside a section, have "version 3"`,
		"uuid = GPU-1":           "1: want key = value inside a section",
		"[gpu]\n\n[gpus]\na = b": "3: section [gpus]",
	} {
		if _, err := rack.Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	if _, err := rack.New(t.TempDir(), "k40"); err == nil || !strings.Contains(err.Error(), "h100-t4") {
		t.Errorf("got %v, want the names of the racks", err)
	}
}

func TestSelectAsCUDADoes(t *testing.T) {
	r := newRack(t, "8xh100")
	f, err := r.File()
	if err != nil {
		t.Fatal(err)
	}
	uuid := func(i int) string { return f.GPUs[i].UUID() }
	for visible, want := range map[string][]int{
		"":                           {},
		"3":                          {3},
		"2,0":                        {2, 0},
		"1,-1,2":                     {1},
		"1,9,2":                      {1},
		uuid(5):                      {5},
		uuid(5)[:12] + "," + uuid(1): {5, 1},
		"GPU-":                       {},
		uuid(0) + ",GPU-00000000-none," + uuid(1): {0},
	} {
		var got []string
		for _, d := range f.Select(f.Devices(nil), &visible) {
			got = append(got, d.UUID)
		}
		var wanted []string
		for _, i := range want {
			wanted = append(wanted, uuid(i))
		}
		if strings.Join(got, ",") != strings.Join(wanted, ",") {
			t.Errorf("CUDA_VISIBLE_DEVICES=%q: got %v, want %v", visible, got, want)
		}
	}
	if got := f.Select(f.Devices(nil), nil); len(got) != 8 {
		t.Errorf("unset: got %d devices", len(got))
	}
}

func TestRootTree(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "a100-mig")
	for path, want := range map[string]string{
		"proc/driver/nvidia/version":                              "570.148.08",
		"proc/driver/nvidia/gpus/0000:06:00.0/information":        m.gpu,
		"proc/driver/nvidia/capabilities/gpu0/mig/gi3/access":     "DeviceFileMinor: 30\n",
		"proc/driver/nvidia/capabilities/gpu0/mig/gi3/ci0/access": "DeviceFileMinor: 31\n",
		"proc/driver/nvidia-caps/mig-minors":                      "gpu0/gi3/ci0/access 31\n",
		"sys/bus/pci/devices/0000:06:00.0/numa_node":              "0\n",
		"sys/bus/pci/devices/0000:06:00.0/local_cpulist":          "0-15\n",
		"sys/bus/pci/devices/0000:06:00.0/vendor":                 "0x10de\n",
		"sys/bus/pci/devices/0000:06:00.0/device":                 "0x20b0\n",
		"usr/lib/x86_64-linux-gnu/libcuda.so.1":                   m.gpu,
		"usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1":              "nvmlInit_v2",
	} {
		if !contains(filepath.Join(m.root, path), want) {
			t.Errorf("%s lacks %q", path, want)
		}
	}
	for _, node := range []string{"nvidia0", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-caps/nvidia-cap30", "nvidia-caps/nvidia-cap31"} {
		st, err := os.Stat(filepath.Join(m.root, "dev", node))
		if err != nil || st.Mode()&os.ModeCharDevice == 0 || st.Mode().Perm() != 0o666 && !strings.Contains(node, "cap") {
			t.Errorf("%s: %v, %v", node, st, err)
		}
	}
}
