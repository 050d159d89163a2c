package nvidia_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aliquot.example/internal/host"
	"aliquot.example/internal/mps"
)

// While another driver is about to be loaded the plugin holds nothing of the present one:
// no MPS daemon, and no library that is open. Afterwards all is as before.
func TestThePluginLetsGoOfADriverThatIsChanged(t *testing.T) {
	t.Parallel()
	b := newBench(t, "h100-t4")
	c := b.plugin(t, "")
	until(t, c, "healthy", allWell)
	ours := func() (n int) {
		for _, pipe := range mps.Daemons() {
			if strings.HasPrefix(pipe, b.runDir+"/") {
				n++
			}
		}
		return n
	}
	if ours() == 0 {
		t.Fatal("no MPS daemon runs")
	}
	marker := filepath.Join(b.runDir, host.DriverChange)
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	gs := until(t, c, "withheld", func(gs groups) bool {
		for _, g := range gs {
			if ok, why := health(g); ok || !strings.Contains(why, "the driver is being changed on this node") {
				return false
			}
		}
		return len(gs) == 2 && ours() == 0
	})
	if _, err := c.Reserve([]string{gs[0].Devices[0].ID}); err == nil {
		t.Error("a GPU was given out whose driver is being changed")
	}
	if err := os.Remove(marker); err != nil {
		t.Fatal(err)
	}
	until(t, c, "healthy again", allWell)
	if ours() == 0 {
		t.Error("no MPS daemon was started again")
	}
}
