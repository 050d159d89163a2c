package cluster

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestAssignmentsAreHCL(t *testing.T) {
	got, err := Vars{"image": `a"b`, "n": 3, "sizes": []int{1, 2}, "template": "${x} %{y}", "yes": true}.assignments()
	if err != nil {
		t.Fatal(err)
	}
	want := `image = "a\"b"
n = 3
sizes = [1,2]
template = "$${x} %%{y}"
yes = true
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestInterfaceNamesFit(t *testing.T) {
	for _, dir := range []string{"/tmp/aliquot-1", "/tmp/aliquot-3502258886"} {
		if name := bridgeName(dir); len(name) > 15 || !strings.HasPrefix(name, "aliquot") {
			t.Errorf("%s: bridge %q, want at most 15 bytes", dir, name)
		}
	}
}

func TestAwaitSaysWhatIsMissing(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*poll)
	defer cancel()
	err := Await(ctx, "the moon", func() string { return "it is cloudy" })
	if err == nil || !strings.Contains(err.Error(), "the moon") || !strings.Contains(err.Error(), "it is cloudy") {
		t.Errorf("got %v", err)
	}
}

func TestAwaitEndsWithTheProcess(t *testing.T) {
	p, err := spawn("short", filepath.Join(t.TempDir(), "log"), nil, "/bin/sh", "-c", "echo last words; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := p.context(t.Context())
	defer cancel()
	err = AwaitWithin(ctx, time.Minute, "readiness", func() string { return "not yet" })
	if err == nil || !strings.Contains(err.Error(), "last words") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got %v", err)
	}
}

// TestSweepEndsWhatIsMarked starts a process that ignores SIGTERM, with a child, both in other
// sessions, and sweeps them.
func TestSweepEndsWhatIsMarked(t *testing.T) {
	dir := t.TempDir()
	p, err := spawn("stubborn", filepath.Join(dir, "log"), []string{mark + "=" + dir, "PATH=" + os.Getenv("PATH")},
		"/bin/sh", "-c", "trap '' TERM; setsid sleep 300 & sleep 300")
	if err != nil {
		t.Fatal(err)
	}
	if err := AwaitWithin(t.Context(), 10*time.Second, "its children", func() string {
		if len(marked(dir)) < 3 {
			return "are not there"
		}
		return ""
	}); err != nil {
		t.Fatal(err)
	}
	if err := endProcesses(dir); err != nil {
		t.Error(err)
	}
	<-p.done
	if left := slices.DeleteFunc(marked(dir), func(pid int) bool { return !alive(pid) }); len(left) > 0 {
		t.Errorf("%v still run", left)
	}
}

// TestReaperOutlivesTheHarness kills a harness without warning. Its reaper must end its processes
// and remove its directory.
func TestReaperOutlivesTheHarness(t *testing.T) {
	const child = "ALIQUOT_TEST_HARNESS"
	if dir := os.Getenv(child); dir != "" {
		if _, err := startReaper(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := spawn("server", filepath.Join(dir, "logs", "log"), []string{mark + "=" + dir, "PATH=" + os.Getenv("PATH")}, "sleep", "300"); err != nil {
			t.Fatal(err)
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	harness := exec.Command(os.Args[0], "-test.run=^TestReaperOutlivesTheHarness$")
	harness.Env = append(os.Environ(), child+"="+dir)
	var ended *exec.ExitError
	if err := harness.Run(); !errors.As(err, &ended) || ended.Success() {
		t.Fatalf("the harness ended with %v, want a kill", err)
	}
	if err := AwaitWithin(t.Context(), 30*time.Second, "the sweep", func() string {
		if pids := marked(dir); slices.ContainsFunc(pids, alive) {
			return "processes run"
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			return "the directory is there"
		}
		return ""
	}); err != nil {
		t.Error(err)
	}
}

func TestClustersHaveBridgesOfTheirOwn(t *testing.T) {
	var used []string
	taken := func(subnet *net.IPNet) bool { return slices.Contains(used, subnet.String()) }
	for range 256 {
		subnet, err := bridgeSubnet("/tmp/aliquot-123456", taken)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(used, subnet) {
			t.Fatalf("%s was given twice", subnet)
		}
		used = append(used, subnet)
	}
	if subnet, err := bridgeSubnet("/tmp/aliquot-123456", taken); err == nil {
		t.Errorf("all are taken, yet %s was given", subnet)
	}
	host, _ := net.InterfaceAddrs()
	for _, address := range host {
		if own, ok := address.(*net.IPNet); ok && !overlapsHost(own) {
			t.Errorf("%s is the host's own and was not noticed", own)
		}
	}
}
