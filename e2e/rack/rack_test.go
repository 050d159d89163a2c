package rack_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aliquot.example/e2e/rack"
)

// One NVML library per process: every test that talks to the library runs a
// probe (probe_test.go) in a child of the test binary.
const probeMark = "RACK_PROBE"

var tools rack.Tools

func TestMain(m *testing.M) {
	if name := os.Getenv(probeMark); name != "" {
		os.Exit(runProbe(name))
	}
	if os.Getenv(clientMark) != "" {
		os.Exit(runClient(os.Stdin, os.Stdout))
	}
	var err error
	if tools, err = rack.Build(context.Background(), cacheDir()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func cacheDir() string {
	base, err := os.UserCacheDir()
	if err != nil {
		base = os.TempDir()
	}
	return filepath.Join(base, "aliquot", "rack")
}

func newRack(t *testing.T, name string) *rack.Rack {
	t.Helper()
	r, err := rack.New(t.TempDir(), name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// probe runs a probe on the rack and decodes what it printed into out.
func probe(t *testing.T, tools rack.Tools, r *rack.Rack, name string, out any, env ...string) {
	t.Helper()
	text, err := startProbe(tools, r, name, env...).Output()
	if err != nil {
		t.Fatalf("probe %s: %v", name, err)
	}
	if err := json.Unmarshal(text, out); err != nil {
		t.Fatalf("probe %s printed %q: %v", name, text, err)
	}
}

func startProbe(tools rack.Tools, r *rack.Rack, name string, env ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(tools.Env(r, nil), append(env, probeMark+"="+name)...)
	return cmd
}

// until polls a condition for up to 5 seconds.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 5 s in vain: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestShippedRacksLoad(t *testing.T) {
	for _, name := range rack.Shipped() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRack(t, name)
			want, err := r.File()
			if err != nil {
				t.Fatal(err)
			}
			var got inventory
			probe(t, tools, r, "inventory", &got)
			if got.Driver != want.Driver.Get("version") || got.CUDA != want.Driver.Get("cuda") || len(got.GPUs) != len(want.GPUs) {
				t.Fatalf("got driver %s, CUDA %s and %d GPUs of %s", got.Driver, got.CUDA, len(got.GPUs), want)
			}
			for i, g := range want.GPUs {
				have := got.GPUs[i]
				if have.UUID != g.UUID() || have.Name != g.Get("name") || have.MiB != g.Int("memory_mib") || have.SMs != g.Int("sms") ||
					have.Compute != g.Get("compute") || have.Minor != g.Int("minor") || have.PCI != g.Get("pci") || len(have.MIG) != len(g.MIG) {
					t.Errorf("GPU %d: got %+v", i, have)
				}
				for j, m := range g.MIG {
					if mig := have.MIG[j]; mig.UUID != m.UUID() || mig.GI != m.Int("gi") || mig.SMs != m.Int("sms") || mig.MiB != m.Int("memory_mib") || mig.Parent != g.UUID() {
						t.Errorf("MIG device %d: got %+v, want %v", j, mig, m)
					}
				}
			}
		})
	}
}

func TestParseWritesBack(t *testing.T) {
	r := newRack(t, "a100-mig")
	f, err := r.File()
	if err != nil {
		t.Fatal(err)
	}
	again, err := rack.Parse(f.String())
	if err != nil || again.String() != f.String() || !strings.Contains(f.String(), "[mig]") {
		t.Fatalf("%v: %s\nis not\n%s", err, again, f)
	}
}

type stderr struct{ text string }

func (s *stderr) Write(p []byte) (int, error) {
	s.text += string(p)
	return len(p), nil
}

func (s *stderr) has(parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(s.text, p) {
			return false
		}
	}
	return true
}
