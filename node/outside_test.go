package node

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// systemdRun stands in for systemd where it does not run: it writes down what it was asked
// for, and runs it with what it was given alone.
const systemdRun = `#!/bin/sh
echo "systemd-run $*" >>/var/log/asked
[ ! -e /etc/unit-fails ] || { echo "Failed to start transient service unit" >&2; exit 1; }
env=
while [ "$1" != -- ]; do
	case $1 in --setenv=*) env="$env ${1#--setenv=}" ;; esac
	shift
done
shift
exec env -i $env "$@"
`

// Where systemd runs, packages are changed outside of the agent's control group, there and
// back, and only one at a time.
func TestPackagesAreChangedOutsideTheJob(t *testing.T) {
	r := newRig(t)
	r.must(r.Write("run/systemd/system/.keep", ""))
	r.must(r.Write("usr/bin/systemd-run", systemdRun))
	s := r.planned()
	r.must(r.fetch(t.Context(), s))
	if strings.Contains(r.Asked(), "systemd-run") {
		t.Errorf("what only looks runs in a unit: %s", r.Asked())
	}
	// An installation that an agent before this one began is waited for.
	running := "var/lib/services/running"
	r.must(r.Write(running, "nvidia-persistenced\n"+unit+"\n"))
	r.pollInterval = time.Millisecond
	done := make(chan error, 1)
	go func() { done <- r.install(t.Context(), s.Plan) }()
	for strings.Count(r.Asked(), "is-active --quiet "+unit) < 3 {
		select {
		case err := <-done:
			t.Fatalf("it did not wait: %v", err)
		default:
		}
	}
	if strings.Contains(r.Asked(), "systemd-run") {
		t.Fatalf("it did not wait:\n%s", r.Asked())
	}
	r.must(r.Write(running, "nvidia-persistenced\n"))
	r.must(<-done)
	r.must(r.hold(t.Context(), "nvidia"))
	r.has(newer, true)
	for _, want := range []string{"--wait --pipe --collect --unit=" + unit, "--setenv=DEBIAN_FRONTEND=noninteractive", "-- /usr/bin/apt-get install"} {
		if !strings.Contains(r.Asked(), want) {
			t.Errorf("no %q in\n%s", want, r.Asked())
		}
	}
	asked := len(r.Asked())
	r.must(r.restore(t.Context(), s.From, r.facts().DriverPackages("nvidia")))
	r.must(r.hold(t.Context(), "nvidia"))
	r.has(older, true)
	if !strings.Contains(r.Asked()[asked:], "-- /usr/bin/apt-get install") {
		t.Errorf("the way back ran elsewhere:\n%s", r.Asked()[asked:])
	}
	// A unit that never ends is ended when its time is over.
	r.must(r.Write(running, "nvidia-persistenced\n"+unit+"\n"))
	ctx, end := context.WithCancelCause(t.Context())
	end(errors.New("it took longer than 2h"))
	if err := r.unitEnded(ctx); err == nil || !strings.Contains(err.Error(), "it took longer than 2h") || r.Root.TextOr("", running) != "nvidia-persistenced" {
		t.Errorf("%v; running: %s", err, r.Root.TextOr("", running))
	}
	r.must(r.Write("etc/unit-fails", ""))
	if _, err := r.outside(t.Context(), "dpkg", "--configure", "-a"); err == nil || !strings.Contains(err.Error(), "transient service") {
		t.Errorf("%v", err)
	}
}
