package aliquot

import (
	"os"
	"slices"
	"testing"

	machine "aliquot.example/internal/host"
)

// Who holds a node is read from the files of the machine below a root: a process
// counts when it is of the container and has one of the nodes open.
func TestOpenersOfAContainer(t *testing.T) {
	r := tree{t, t.TempDir()}
	for pid, p := range map[string]struct{ cgroup, open string }{
		"12": {"0::/docker/c0ffee\n", "/dev/nvidia0"},
		"13": {"0::/docker/c0ffee\n", "/dev/nvidia1"},
		"14": {"0::/docker/decaf\n", "/dev/nvidia0"},
		"x":  {"0::/docker/c0ffee\n", "/dev/nvidia0"},
	} {
		r.file("proc/"+pid+"/cgroup", p.cgroup)
		if err := os.Symlink(p.open, r.make("proc/"+pid+"/fd/3")); err != nil {
			t.Fatal(err)
		}
	}
	if got := openers(machine.Root(r.dir), "c0ffee", []string{"/dev/nvidia0"}); !slices.Equal(got, []int{12}) {
		t.Errorf("got %v, want process 12", got)
	}
	if got := openers(machine.Root(r.dir), "", []string{"/dev/nvidia0"}); got != nil {
		t.Errorf("no container has the processes %v", got)
	}
}
