package plugin

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/go-hclog"

	"aliquot/internal/gpu"
)

// TestAPluginThatStartsWithoutAGPUKeepsTheOthersGroups: the same slices under
// another group's name would be free in Nomad's account.
func TestAPluginThatStartsWithoutAGPUKeepsTheOthersGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &hand{found: gpus(2)})
		r.follow(t)
		<-r.got
		r.stop()
		left := gpus(2)[1:]
		left[0].Index = 0 // as the driver counts now
		next := newRig(t, &hand{found: left, runDir: r.runDir})
		next.follow(t)
		defer next.stop()
		if groups := <-next.got; len(groups) != 1 || groups[0].Name != "h100-1" || *groups[0].Attributes["index"].Int != 1 {
			t.Errorf("%+v", groups)
		}
	})
}

func TestNumbers(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "amd", "numbers.json")
	fresh := func() *Numbers { return NewNumbers(dir, gpu.AMD, hclog.NewNullLogger()) }
	n := fresh()
	if _, err := os.Stat(file); err == nil {
		t.Error("a process that only validates left a file")
	}
	for _, c := range []struct {
		id         gpu.ID
		wish, want int
	}{{"a", 0, 0}, {"b", 1, 1}, {"b", 0, 1}, {"c", 0, 2}, {"c", 2, 2}} {
		if got := n.Of(c.id, c.wish); got != c.want {
			t.Errorf("%s wants %d: %d, want %d", c.id, c.wish, got, c.want)
		}
	}
	if got := fresh().Of("c", 0); got != 2 {
		t.Errorf("after a restart c is %d", got)
	}
	other, err := json.Marshal(numbering{Boot: "another", Numbers: map[gpu.ID]int{"c": 7}})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(other), "{", "null", ""} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := fresh().Of("c", 0); got != 0 {
			t.Errorf("with %q c is %d", text, got)
		}
	}
}
