package plugin

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/go-hclog"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/share"
)

// TestAPluginThatStartsWithoutAGPUKeepsTheOthersGroups: the same slices under
// another group's name would be free in Nomad's account.
func TestAPluginThatStartsWithoutAGPUKeepsTheOthersGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &fakeVendor{found: gpus(2)})
		r.follow(t)
		<-r.got
		r.stop()
		left := gpus(2)[1:]
		left[0].Index = 0 // as the driver counts now
		next := newRig(t, &fakeVendor{found: left, runDir: r.runDir})
		next.follow(t)
		defer next.stop()
		if groups := <-next.got; len(groups) != 1 || groups[0].Name != "h100-1" || *groups[0].Attributes["index"].Int != 1 {
			t.Errorf("%+v", groups)
		}
	})
}

// TestMIGDevicesHaveTheirGPUsNumber: a gpu block's index would name another GPU's.
func TestMIGDevicesHaveTheirGPUsNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &fakeVendor{found: gpus(2)})
		r.follow(t)
		<-r.got
		r.stop()
		left := gpus(2)[1:]
		left[0].Index, left[0].Split = 0, true // as the driver counts now
		part := left[0]
		part.ID, part.Parent, part.Profile, part.Split, part.Slicing = "MIG-1", left[0].ID, "1g.10gb", false, share.Slicing{}
		part.Part = share.Part{Sharing: gpu.SharingMIG, Enforcement: gpu.EnforceMIG, Infix: "mig-"}
		next := newRig(t, &fakeVendor{found: append(left, part), runDir: r.runDir})
		next.follow(t)
		defer next.stop()
		if groups := <-next.got; len(groups) != 1 || groups[0].Name != "h100-mig-1g.10gb" || *groups[0].Attributes["index"].Int != 1 {
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
		if got := n.Of([]Counted{{c.id, c.wish}}); got[0] != c.want {
			t.Errorf("%s wants %d: %d, want %d", c.id, c.wish, got, c.want)
		}
	}
	if got := fresh().Of([]Counted{{"c", 0}}); got[0] != 2 {
		t.Errorf("after a restart c is %d", got)
	}
	for _, text := range []string{"{", "null", ""} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := fresh().Of([]Counted{{"c", 0}}); got[0] != 0 {
			t.Errorf("with %q c is %d", text, got)
		}
	}
}

// A reboot renames no GPU that is there after it. Only a GPU that was put in takes the
// number of one that was taken out.
func TestNumbersOverAReboot(t *testing.T) {
	counted := func(ids string) (out []Counted) {
		for i, id := range strings.Fields(ids) {
			out = append(out, Counted{gpu.ID(id), i})
		}
		return out
	}
	for _, c := range []struct {
		name, found string
		want        []int
		then        string // found later in the same boot, by a plugin that was restarted
		thenWant    []int
	}{
		{"as before", "a b c", []int{0, 1, 2}, "a b c", []int{0, 1, 2}},
		{"one is missing", "b c", []int{1, 2}, "a b c", []int{0, 1, 2}},
		{"one was exchanged", "x b c", []int{0, 1, 2}, "x c", []int{0, 2}},
		{"one was exchanged and counted last", "b c x", []int{1, 2, 0}, "b c x", []int{1, 2, 0}},
		{"one was added", "a b c x", []int{0, 1, 2, 3}, "b x", []int{1, 3}},
		{"one is missing, a new one comes later", "b c", []int{1, 2}, "x b c", []int{3, 1, 2}},
		{"all were exchanged", "x y z", []int{0, 1, 2}, "y", []int{1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			text, err := json.Marshal(numbering{Boot: "another", Numbers: map[gpu.ID]int{"a": 0, "b": 1, "c": 2}})
			if err != nil {
				t.Fatal(err)
			}
			if err := WriteFile(filepath.Join(dir, "amd", "numbers.json"), text); err != nil {
				t.Fatal(err)
			}
			for _, round := range []struct {
				found string
				want  []int
			}{{"", []int{}}, {c.found, c.want}, {c.then, c.thenWant}} {
				n := NewNumbers(dir, gpu.AMD, hclog.NewNullLogger())
				if got := n.Of(counted(round.found)); !slices.Equal(got, round.want) {
					t.Errorf("of %s: %v, want %v", round.found, got, round.want)
				}
			}
		})
	}
}

func TestWhatMustLastIsNotInRun(t *testing.T) {
	for dir, want := range map[string]string{
		"/run/aliquot": "/var/lib/aliquot", "/var/run/a/b": "/var/lib/a/b", "/srv/aliquot": "/srv/aliquot", "/running": "/running",
	} {
		if got := lasting(dir); got != want {
			t.Errorf("%s: %s, want %s", dir, got, want)
		}
	}
}
