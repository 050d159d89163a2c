package nvidia_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aliquot.example/e2e/rack"
)

// firstWait is how long the first fingerprint waits for daemons that are starting.
const firstWait = 3 * time.Second

// slow makes a control program that does as the rack's, but late: it starts a
// daemon and ends one only after it has said that it did, as the real one may.
func (b *bench) slow(t *testing.T, start, quit string) (config string) {
	t.Helper()
	path := filepath.Join(filepath.Dir(b.runDir), "slow-control")
	script := `#!/bin/sh
if [ "$1" = -d ]; then
	[ ` + start + ` = 0 ] && exec nvidia-cuda-mps-control "$@"
	(sleep ` + start + `; exec nvidia-cuda-mps-control "$@") &
	exit 0
fi
asked=$(cat)
case "$asked" in quit*)
	(sleep ` + quit + `; echo "$asked" | nvidia-cuda-mps-control) >/dev/null 2>&1 &
	exit 0
esac
echo "$asked" | nvidia-cuda-mps-control
`
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return "mps_control = \"" + path + "\"\n"
}

// TestADaemonThatBeginsLate is no daemon that cannot be started: the node would
// register with devices that are unhealthy.
func TestADaemonThatBeginsLate(t *testing.T) {
	t.Parallel()
	b := newBench(t, "t4")
	began := time.Now()
	c := b.plugin(t, b.slow(t, "0.5", "0"))
	gs := until(t, c, "a fingerprint", func(groups) bool { return true })
	// On a busy host the daemon may take longer than the first fingerprint waits.
	if took := time.Since(began); !allWell(gs) && took < firstWait {
		_, why := health(named(gs, "t4-0"))
		t.Errorf("the first fingerprint says %q after %s", why, took)
	}
	until(t, c, "a daemon that accepts clients", allWell)
}

// TestADaemonThatEndsLate gets no second one beside it.
func TestADaemonThatEndsLate(t *testing.T) {
	t.Parallel()
	b := newBench(t, "t4")
	c := b.plugin(t, b.slow(t, "0", "4"))
	g := named(until(t, c, "healthy", allWell), "t4-0")
	before := b.control(b.uuids(t)[0]).Process()
	p := b.program(t, reserve(t, c, g, 0, 4))
	p.do(t, "fault")
	until(t, c, "FAULT", func(gs groups) bool { return !allWell(gs) })
	p.end()
	until(t, c, "recovery", allWell)
	if after := b.control(b.uuids(t)[0]).Process(); after == before || after == 0 {
		t.Errorf("daemon %d was not replaced (%d)", before, after)
	}
	log, err := os.ReadFile(b.Path + ".d/mps.log")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(log), rack.SecondDaemon) {
		t.Errorf("a second daemon was started beside the first:\n%s", log)
	}
}

// TestADaemonThatDiesInFault has its successor, which has no fault: that one must not
// be ended for it, least of all when a task has just attached.
func TestADaemonThatDiesInFault(t *testing.T) {
	t.Parallel()
	b := newBench(t, "t4")
	path := filepath.Join(filepath.Dir(b.runDir), "told-control")
	script := `#!/bin/sh
[ "$1" = -d ] && exec nvidia-cuda-mps-control "$@"
asked=$(cat)
echo "$asked" >>` + path + `.asked
echo "$asked" | nvidia-cuda-mps-control
`
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	rounds := func() int {
		text, _ := os.ReadFile(path + ".asked")
		return strings.Count(string(text), "get_server_list")
	}
	c := b.plugin(t, "mps_control = \""+path+"\"\n")
	g := named(until(t, c, "healthy", allWell), "t4-0")
	daemon := b.control(b.uuids(t)[0])
	p := b.program(t, reserve(t, c, g, 0, 4))
	p.do(t, "fault")
	until(t, c, "FAULT", func(gs groups) bool { return !allWell(gs) })
	before := daemon.Process()
	kill(t, daemon)
	p.end()
	until(t, c, "healthy on a new daemon", allWell)
	after := daemon.Process()
	if after == before || after == 0 {
		t.Fatalf("daemon %d, was %d", after, before)
	}
	// A round of the watch asks for the servers once, and at most twice.
	end := rounds() + 5
	await(t, "further rounds", func() bool { return rounds() >= end })
	if now := daemon.Process(); now != after {
		t.Errorf("the new daemon %d was replaced by %d", after, now)
	}
}
