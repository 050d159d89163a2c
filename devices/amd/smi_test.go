package amd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"aliquot.example/e2e/rack"
	"aliquot.example/internal/host"
)

// built returns the fake library of a release, built once for all tests.
func built(t *testing.T, release string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := rack.BuildAMD(t.Context(), filepath.Join(cache, "aliquot", "rack"), release)
	if err != nil {
		t.Fatal(err)
	}
	libs, err := filepath.Glob(filepath.Join(dir, "libamd_smi.so.*"))
	if err != nil || len(libs) != 1 {
		t.Fatalf("libraries in %s: %v %v", dir, libs, err)
	}
	return libs[0]
}

func onEveryRelease(t *testing.T, f func(t *testing.T, release, path string)) {
	for _, release := range rack.AMDReleases {
		t.Run(release, func(t *testing.T) { f(t, release, built(t, release)) })
	}
}

// cardsOf reads the rack's cards.
func cardsOf(t *testing.T, r *rack.AMD) []card {
	t.Helper()
	m := machine{host.Root(r.Root)}
	nodes, errs := m.nodes()
	if errs != nil {
		t.Fatal(errs)
	}
	return m.cards(nodes)
}

func started(t *testing.T, r *rack.AMD, path string) (*smi, []card) {
	t.Helper()
	t.Setenv("ALIQUOT_RACK_AMD", r.Path)
	sym, from, err := machine{host.Root(r.Root)}.open(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := start(sym, from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s, cardsOf(t, r)
}

func TestEveryReadingOfEveryRelease(t *testing.T) {
	onEveryRelease(t, func(t *testing.T, release, path string) {
		gpus := append(rack.AMDHost(rack.MI300X, 1, "CPX", "NPS4"), rack.NewAMDGPU(rack.MI210, 1), rack.NewAMDGPU(rack.RX7900XTX, 2))
		for i := range gpus {
			g := &gpus[i]
			g.UsedMiB, g.Busy, g.BusyMemory, g.Power = 1000+i, 11+i, 22+i, 333+i
			g.Edge, g.Junction, g.MemoryTemp = 44+i, 55+i, 66+i
			g.UE, g.CE, g.BadPages, g.BadPageLimit = 7+i, 88+i, 9+i, 128+i
		}
		r := newRack(t, gpus...)
		s, cards := started(t, r, path)
		if s.Version.String() != release {
			t.Errorf("release %s, want %s", s.Version, release)
		}
		if err := s.check(cards); err != nil {
			t.Error(err)
		}
		for i, c := range cards {
			g := gpus[i]
			a, ok := s.asic(c)
			if !ok || a.Name != g.Model.Name || a.PCI != g.Model.Device {
				t.Errorf("asic %+v %v, want %s %#x", a, ok, g.Model.Name, g.Model.Device)
			}
			if want := c.Nodes[0].Shape.Units; a.Units != want && s.layout.asicUnits.ok() {
				t.Errorf("%d compute units, want %d", a.Units, want)
			}
			if n, ok := s.vram(c); !ok || uint64(n) != g.Model.MemoryMiB {
				t.Errorf("vram %v %v", n, ok)
			}
			if n, ok := s.vramUsed(c); !ok || int(n) != g.UsedMiB {
				t.Errorf("vram used %v %v", n, ok)
			}
			if compute, memory, ok := s.activity(c); !ok || int(compute) != g.Busy || int(memory) != g.BusyMemory {
				t.Errorf("activity %v %v %v", compute, memory, ok)
			}
			if watts, ok := s.power(c); !ok || int(watts) != g.Power {
				t.Errorf("power %v %v, want %d", watts, ok, g.Power)
			}
			for sensor, want := range []int{g.Edge, g.Junction, g.MemoryTemp} {
				if degrees, ok := s.temperature(c, int32(sensor)); !ok || int(degrees) != want {
					t.Errorf("temperature %d is %v %v, want %d", sensor, degrees, ok, want)
				}
			}
			if ue, ce, ok := s.ecc(c); !ok || int(ue) != g.UE || int(ce) != g.CE {
				t.Errorf("ecc %d %d %v", ue, ce, ok)
			}
			limit := g.BadPageLimit
			if strings.HasPrefix(release, "24.") {
				limit = 0 // the release cannot tell
			}
			if n, most, ok := s.badPages(c); !ok || int(n) != g.BadPages || int(most) != limit {
				t.Errorf("bad pages %d of %d %v, want %d of %d", n, most, ok, g.BadPages, limit)
			}
		}
	})
}

func TestEventsOfEveryRelease(t *testing.T) {
	onEveryRelease(t, func(t *testing.T, _, path string) {
		r := newRack(t, rack.AMDHost(rack.MI210, 3, "", "")...)
		s, cards := started(t, r, path)
		got := make(chan event, 16)
		stop := s.watch(func(e event) { got <- e })
		defer stop()
		// Three at once, so that the records after the first are read at their stride.
		if err := r.Edit(func(gpus []rack.AMDGPU) {
			for i := range gpus {
				gpus[i].Sequence, gpus[i].Event = gpus[i].Sequence+1, eventPreReset
			}
		}); err != nil {
			t.Fatal(err)
		}
		seen := map[pciAddress]bool{}
		for len(seen) < len(cards) {
			select {
			case e := <-got:
				if e.Kind != eventPreReset {
					t.Fatalf("event %+v", e)
				}
				seen[e.Card] = true
			case <-time.After(10 * time.Second):
				t.Fatalf("only %v had an event", seen)
			}
		}
		for _, c := range cards {
			if !seen[c.PCI] {
				t.Errorf("no event of %s", c.ID)
			}
		}
	})
}

// logged collects log lines.
type logged struct {
	mu    sync.Mutex
	lines []string
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(b))
	return len(b), nil
}

func (l *logged) count(level, text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, line := range l.lines {
		if strings.Contains(line, "["+level+"]") && strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func (l *logged) logger() hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Output: l, Level: hclog.Debug})
}

func followed(t *testing.T, r *rack.AMD, path string) (*library, *logged) {
	t.Helper()
	t.Setenv("ALIQUOT_RACK_AMD", r.Path)
	var out logged
	l := &library{machine: machine{host.Root(r.Root)}, path: path, logged: &journal{log: out.logger(), logged: map[string]string{}}, wake: func() {}}
	t.Cleanup(l.stop)
	return l, &out
}

func TestALibraryThatCannotBeUsedIsLeftAloneWithOneLine(t *testing.T) {
	good := built(t, "26.5")
	garbage := filepath.Join(t.TempDir(), "libamd_smi.so")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("not a library ", 200)), 0o755); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "libamd_smi.so")
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	text[18], text[19] = 0xb7, 0 // e_machine: AArch64
	if err := os.WriteFile(other, text, 0o755); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(t.TempDir(), "libamd_smi.so")
	source := filepath.Join(t.TempDir(), "f.c")
	if err := os.WriteFile(source, []byte("int amdsmi_init(void) { return 0; }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gcc", "-shared", "-fPIC", "-o", foreign, source).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v %s", err, out)
	}
	for _, c := range []struct {
		name, path, level, want string
		init                    int
		release                 string
	}{
		{"no file", "/nonexistent/libamd_smi.so", "WARN", "No such file", 0, ""},
		{"no library", garbage, "WARN", "invalid ELF header", 0, ""},
		{"another architecture", other, "WARN", "is built for EM_AARCH64 and this host is", 0, ""},
		{"another library of that name", foreign, "WARN", "lacks the basic AMD SMI functions", 0, ""},
		{"an unknown release", good, "WARN", "AMD SMI 27.1: this release is not supported", 0, "27.1"},
		{"a release of other records", built(t, "25.4"), "WARN", "the library's data does not have the format of release 25.1", 0, "25.1"},
		{"a failing start", good, "WARN", "status 8", 8, ""},
		{"no driver", good, "WARN", "the amdgpu driver is not loaded", 34, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRack(t, rack.AMDHost(rack.MI300X, 1, "", "")...)
			if err := r.SetLibrary(c.init, c.release); err != nil {
				t.Fatal(err)
			}
			l, out := followed(t, r, c.path)
			cards := cardsOf(t, r)
			for range 3 {
				l.follow(cards)
			}
			if l.use() != nil {
				t.Fatal("the library is used")
			}
			if n := out.count(c.level, c.want); n != 1 || len(out.lines) != 1 {
				t.Errorf("%d lines with %q, all: %q", n, c.want, out.lines)
			}
			if name := l.name(cards[0]); name != "" {
				t.Errorf("name %q without a library", name)
			}
		})
	}
}

func TestTheLibraryFollowsTheCards(t *testing.T) {
	r := newRack(t, rack.AMDHost(rack.MI300X, 2, "", "")...)
	l, out := followed(t, r, built(t, "26.2"))
	l.follow(cardsOf(t, r))
	first := l.use()
	if first == nil || len(first.handles) != 2 {
		t.Fatalf("library %+v, lines %q", first, out.lines)
	}
	l.follow(cardsOf(t, r))
	if l.use() != first {
		t.Error("the library was restarted for the same cards")
	}
	if err := r.EditGPU(r.GPUs()[1].PCI, func(g *rack.AMDGPU) { g.Compute = "CPX" }); err != nil {
		t.Fatal(err)
	}
	l.follow(cardsOf(t, r))
	if second := l.use(); second == nil || second == first || len(second.handles) != 9 {
		t.Errorf("after repartitioning the library is %+v", second)
	}
	l.stop()
	if _, ok := first.asic(cardsOf(t, r)[0]); ok {
		t.Error("a library that was shut down still answers")
	}
}

func TestVersionOf(t *testing.T) {
	for _, c := range []struct {
		words [4]uint32
		want  version
	}{
		{[4]uint32{24, 7, 1, 0}, version{24, 7}},
		{[4]uint32{25, 25, 4, 0}, version{25, 4}},
		{[4]uint32{25, 1, 0, 0}, version{25, 1}},
		{[4]uint32{26, 2, 1, 0}, version{26, 2}},
		{[4]uint32{27, 0, 0, 0}, version{27, 0}},
	} {
		b := make([]byte, 24)
		for i, w := range c.words {
			b[4*i], b[4*i+1] = byte(w), byte(w>>8)
		}
		if got := versionOf(b); got != c.want {
			t.Errorf("versionOf(%v) = %v, want %v", c.words, got, c.want)
		}
	}
}

func TestMissingTellsAbsenceFromOtherRefusals(t *testing.T) {
	for reason, want := range map[string]bool{
		"libamd_smi.so.26: cannot open shared object file: No such file or directory":                          true,
		"libdrm.so.2: cannot open shared object file: No such file or directory":                               false,
		"libamd_smi.so.26: wrong ELF class: ELFCLASS32":                                                        false,
		"/lib/libstdc++.so.6: version `GLIBCXX_3.4.32' not found (required by /opt/rocm/lib/libamd_smi.so.26)": false,
	} {
		if got := missing(reason, "libamd_smi.so.26"); got != want {
			t.Errorf("missing(%q) = %v", reason, got)
		}
	}
}
