package nvidia_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"aliquot.example/e2e/rack"
	"aliquot.example/internal/mps"
)

// folder holds what the tests build; TestMain makes and removes it.
var folder string

// binary builds the shipped program once.
var binary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(folder, "aliquot-device-nvidia")
	args := append(append([]string{"build"}, raceFlags...), "-o", path, "aliquot.example/cmd/aliquot-device-nvidia")
	out, err := exec.Command("go", args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
})

// tools builds the fake library and MPS control once.
var tools = sync.OnceValues(func() (rack.Tools, error) {
	return rack.Build(context.Background(), filepath.Join(folder, "rack"))
})

func TestMain(m *testing.M) {
	if os.Getenv(clientMark) != "" {
		os.Exit(runClient())
	}
	// The tests wait for programs most of their time, so that more run at once than there are CPUs.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	var err error
	if folder, err = os.MkdirTemp("", "aliquot-nvidia-"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(folder)
	os.Exit(code)
}

// bench is a rack with the shipped binary on it.
type bench struct {
	*rack.Rack
	tools  rack.Tools
	binary string
	runDir string
	root   string
}

func newBench(t *testing.T, name string) *bench {
	t.Helper()
	needCompiler(t)
	built, err := tools()
	if err != nil {
		t.Fatal(err)
	}
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	// Short, as a socket's path is 107 bytes at most.
	dir, err := os.MkdirTemp("", "nv")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r, err := rack.New(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{Rack: r, tools: built, binary: path, runDir: filepath.Join(dir, "run"), root: filepath.Join(dir, "root")}
	if os.Geteuid() != 0 {
		t.Skip("making device nodes needs root")
	}
	if err := rack.Root(b.root, r, built.Lib); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.endDaemons(t) })
	return b
}

// needCompiler skips a test on a machine that cannot build the rack; a rack that
// does not build fails it.
func needCompiler(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("no gcc, which builds the rack: scripts/setup installs it")
	}
}

// config is a config block with short periods and what is added.
func (b *bench) config(more string) string {
	return fmt.Sprintf("root = %q\nrun_dir = %q\nfingerprint_period = \"200ms\"\nrecovery_period = \"2s\"\n%s", b.root, b.runDir, more)
}

func (b *bench) env() []string { return append(b.tools.Env(b.Rack, nil), raceEnv...) }

// uuids lists the rack's GPUs in NVML order.
func (b *bench) uuids(t *testing.T) []string {
	t.Helper()
	f, err := b.File()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, g := range f.GPUs {
		out = append(out, g.UUID())
	}
	return out
}

func (b *bench) control(uuid string) mps.Control {
	dir := filepath.Join(b.runDir, "mps", uuid)
	return mps.Control{Program: filepath.Join(b.tools.Bin, mps.Program), Pipe: filepath.Join(dir, "pipe"), Log: filepath.Join(dir, "log")}
}

// endDaemons ends the daemons, which outlive the plugin on purpose.
func (b *bench) endDaemons(t *testing.T) {
	for _, uuid := range b.uuids(t) {
		c := b.control(uuid)
		if c.Process() != 0 {
			_ = c.Quit(context.Background(), 0)
		}
		await(t, "the end of the daemon of "+uuid, func() bool { return c.Process() == 0 })
	}
	rack.Unmount(b.runDir)
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	awaitWithin(t, 15*time.Second, what, ok)
}

func awaitWithin(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("%s did not come", what)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func without(env []string, keys ...string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(e string) bool {
		key, _, _ := strings.Cut(e, "=")
		return slices.Contains(keys, key)
	})
}
