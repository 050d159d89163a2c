package aliquot

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"pgregory.net/rapid"

	"aliquot.example/internal/gpu"
)

// cut is a grant of the first k of n slices of a GPU.
func cut(id gpu.ID, k, n int) gpu.Grant {
	g := gpu.Grant{GPUs: []gpu.ID{id}, Slices: k, Total: n}
	for i := range k {
		g.Instances = append(g.Instances, gpu.Slice{GPU: id, Index: i, Of: n}.String())
	}
	return g
}

// Whatever starts in whatever order, no GPU is ever claimed beyond its whole, and what
// fits is not refused.
func TestClaimsNeverExceedAGPU(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newTasks()
		used := map[gpu.ID]float64{}
		for i := range rapid.IntRange(1, 30).Draw(t, "starts") {
			n := rapid.SampledFrom([]int{1, 2, 3, 7, 10, 20, 48}).Draw(t, "slices")
			k := rapid.IntRange(1, n).Draw(t, "granted")
			id := rapid.SampledFrom([]gpu.ID{"GPU-1", "GPU-2"}).Draw(t, "GPU")
			part := float64(k) / float64(n)
			taken := s.claim(fmt.Sprint(i), claimOf("t", cut(id, k, n))) == ""
			if fits := used[id]+part <= 1+1e-6; taken != fits {
				t.Fatalf("%d of %d beside %f: taken = %v", k, n, used[id], taken)
			}
			if taken {
				used[id] += part
			}
		}
	})
}

// A GPU that was divided again while a task runs is not given away twice: the start waits
// for the task's end, and fails for another try where that does not come.
func TestStartThatWouldExceedAGPUWaits(t *testing.T) {
	config := func(name string) *drivers.TaskConfig {
		return &drivers.TaskConfig{ID: name, Name: name, AllocID: "0123456789"}
	}
	synctest.Test(t, func(t *testing.T) {
		s := newTasks()
		old := cut("GPU-1", 6, 20)
		running := s.add(t.Context(), config("old"), "c", &old)
		begun := time.Now()
		err := s.room(t.Context(), config("new"), cut("GPU-1", 10, 10))
		if err == nil || !structs.IsRecoverable(err) || time.Since(begun) != roomTimeout {
			t.Fatalf("%v after %s", err, time.Since(begun))
		}
		for _, part := range []string{"100% of GPU GPU-1", "task old of allocation 01234567 (30%)"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%v does not say %q", err, part)
			}
		}
		if err := s.room(t.Context(), config("beside"), cut("GPU-1", 7, 10)); err != nil {
			t.Errorf("what fits is refused: %v", err)
		}
		s.settle("beside")
		go func() {
			time.Sleep(5 * time.Second)
			running.end()
		}()
		begun = time.Now()
		if err := s.room(t.Context(), config("new"), cut("GPU-1", 10, 10)); err != nil || time.Since(begun) > 6*time.Second {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
	})
}
