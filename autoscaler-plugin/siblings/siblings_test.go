package siblings

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"aliquot.example/internal/host"
)

// role is the environment variable that makes the test binary an agent or a plugin.
const role = "ALIQUOT_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "agent":
		agent(os.Args[1:])
	case "plugin":
		w := &watch{log: hclog.New(&hclog.LoggerOptions{Level: hclog.Debug}), agent: os.Getppid(), every: 10 * time.Millisecond}
		w.run()
	default:
		os.Exit(m.Run())
	}
}

// agent starts the programs as plugins and prints their process IDs. Like the Nomad Autoscaler, it
// does nothing if one ends. It ends on SIGTERM.
func agent(programs []string) {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	for _, program := range programs {
		cmd := exec.Command(program)
		cmd.Env = append(os.Environ(), role+"=plugin")
		cmd.Stderr = os.Stdout
		if err := cmd.Start(); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println("started", filepath.Base(program), cmd.Process.Pid)
		go cmd.Wait()
	}
	<-ended
	fmt.Println("agent ends")
}

func TestAgentThatLostAPluginIsEnded(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	names := []string{"aliquot-apm", "aliquot-strategy", "aliquot-target"}
	var programs []string
	for _, name := range names {
		program := filepath.Join(dir, name)
		if err := os.Symlink(self, program); err != nil {
			t.Fatal(err)
		}
		programs = append(programs, program)
	}
	cmd := exec.CommandContext(t.Context(), self, programs...)
	cmd.Env = append(os.Environ(), role+"=agent")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	lines := bufio.NewScanner(io.TeeReader(out, &all))
	pids, watched := map[string]int{}, 0
	// Each of the three watches all three, including itself.
	for watched < len(names)*len(names) && lines.Scan() {
		var name string
		var pid int
		if _, err := fmt.Sscanf(lines.Text(), "started %s %d", &name, &pid); err == nil {
			pids[name] = pid
		}
		if strings.Contains(lines.Text(), "watching another plugin") {
			watched++
		}
	}
	if err := syscall.Kill(pids["aliquot-strategy"], syscall.SIGKILL); err != nil {
		t.Fatalf("%v; %s", err, &all)
	}
	for lines.Scan() {
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(all.String(), "agent ends") || !strings.Contains(all.String(), "plugin=aliquot-strateg\n") {
		t.Errorf("%v; the agent and its plugins said:\n%s", err, &all)
	}
}

func TestPluginThatComesBackIsNotLost(t *testing.T) {
	w := &watch{log: hclog.NewNullLogger()}
	both := []string{"aliquot-apm", "aliquot-target"}
	one := both[1:]
	look := func(names []string, times int, want string) {
		t.Helper()
		for i := range times {
			if got := w.lost(names); got != want {
				t.Fatalf("look %d with %v: lost %q, want %q", i, names, got, want)
			}
		}
	}
	look(nil, 2*maxMissed, "") // plugins start one after the other
	look(one, 2*maxMissed, "")
	look(both, 1, "")
	look(one, maxMissed-1, "")
	look(both, 1, "") // restarted
	look(one, maxMissed-1, "")
	look(one, 1, "aliquot-apm")
	look(one, maxMissed-1, "")
	look(one, 1, "aliquot-apm")
}

func TestChildrenCannotBeListed(t *testing.T) {
	if _, err := children(host.Running, 1<<30); err == nil {
		t.Error("no error for a process that does not exist")
	}
}
