package plugin

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/share"
)

const (
	allocA = "aaaaaaaa-1111-2222-3333-444444444444"
	allocB = "bbbbbbbb-1111-2222-3333-444444444444"
)

// host is a /proc, a cgroup tree and a container engine of a test's own.
type host struct {
	*owners
	dir   string
	asked atomic.Int64
}

func newHost(t *testing.T, containers map[string]string) *host {
	t.Helper()
	dir, err := os.MkdirTemp("", "own")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &host{dir: dir}
	listener, err := net.Listen("unix", filepath.Join(dir, "docker.sock"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.asked.Add(1)
		id := strings.Split(r.URL.Path, "/")[2]
		if text, ok := containers[id]; ok {
			fmt.Fprint(w, text)
			return
		}
		http.NotFound(w, r)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close() })
	h.owners = newOwners(filepath.Join(dir, "docker.sock"))
	h.proc, h.cgroup = filepath.Join(dir, "proc"), filepath.Join(dir, "cgroup")
	return h
}

func (h *host) file(t *testing.T, path, text string) {
	t.Helper()
	path = filepath.Join(h.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (h *host) process(t *testing.T, pid int, cgroup string, env ...string) {
	t.Helper()
	h.file(t, fmt.Sprintf("proc/%d/cgroup", pid), cgroup)
	h.file(t, fmt.Sprintf("proc/%d/environ", pid), strings.Join(env, "\x00")+"\x00")
}

func TestOwners(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	h := newHost(t, map[string]string{
		id: `{"Config":{"Env":["ALIQUOT_DEVICE_IDS=GPU-1::00of20,GPU-1::01of20","NOMAD_TASK_NAME=web"],"Labels":{"com.hashicorp.nomad.alloc_id":"` + allocA + `"}}}`,
	})
	h.process(t, 10, "0::/nomad.slice/docker-"+id+".scope\n", "ALIQUOT_DEVICE_IDS=GPU-9::00of20", "NOMAD_ALLOC_ID="+allocB)
	h.process(t, 20, "0::/nomad.slice/share.slice/"+allocB+".batch.scope\n", "PATH=/bin")
	h.process(t, 21, "0::/nomad.slice/share.slice/"+allocB+".batch.scope\n", "ALIQUOT_DEVICE_IDS=GPU-1::05of20", "NOMAD_ALLOC_ID="+allocB)
	h.file(t, "cgroup/nomad.slice/share.slice/"+allocB+".batch.scope/cgroup.procs", "20\n21\n")
	h.process(t, 30, "0::/system.slice/x.service\n", "ALIQUOT_DEVICE_IDS=GPU-1::07of20", "NOMAD_ALLOC_ID="+allocB, "NOMAD_TASK_NAME=raw")
	h.process(t, 40, "0::/user.slice\n", "PATH=/bin")
	h.process(t, 50, "12:memory:/docker/"+id+"\n0::/\n")
	for range 3 {
		got := h.of(t.Context(), []int{10, 20, 30, 40, 50, 99})
		for pid, want := range map[int]owner{
			10: {allocA, "web", []string{"GPU-1::00of20", "GPU-1::01of20"}}, // not what the process says
			20: {allocB, "batch", []string{"GPU-1::05of20"}},
			30: {allocB, "raw", []string{"GPU-1::07of20"}},
			50: {allocA, "web", []string{"GPU-1::00of20", "GPU-1::01of20"}},
		} {
			if o := got[pid]; o.alloc != want.alloc || o.task != want.task || !slices.Equal(o.instances, want.instances) {
				t.Errorf("process %d: %+v, want %+v", pid, o, want)
			}
		}
		if len(got) != 4 {
			t.Errorf("%d owners: %+v", len(got), got)
		}
	}
	// One question for each of the two cgroups that name the container.
	if n := h.asked.Load(); n != 2 {
		t.Errorf("the engine was asked %d times", n)
	}
	h.of(t.Context(), nil)
	if len(h.known) != 0 {
		t.Errorf("%d cgroups are kept for ever", len(h.known))
	}
}

func TestOwnersWithoutAnEngine(t *testing.T) {
	h := newHost(t, nil)
	h.process(t, 10, "0::/docker-"+strings.Repeat("a", 64)+".scope\n", "ALIQUOT_DEVICE_IDS=GPU-1::07of20", "NOMAD_ALLOC_ID="+allocB)
	if got := h.of(t.Context(), []int{10}); got[10].alloc != allocB {
		t.Errorf("%+v", got)
	}
}

// TestStatsSumToTheTask: the parts of all instances are the task's memory, to the
// last MiB, however it divides.
func TestStatsSumToTheTask(t *testing.T) {
	plan := share.NewPlan(gpus(1), []share.Rule{{Selector: share.Any, Mode: share.Shared, Slices: 20}})
	ids := plan.Offers[0].Instances()
	usage := map[gpu.ID]Usage{"GPU-0": {MemoryUsed: 1500, MemoryTotal: 80000, Busy: 50, Processes: []Process{
		{PID: 1, Memory: 500, Busy: 10}, {PID: 2, Memory: 501, Busy: 20}, {PID: 3, Memory: 400, Busy: -1}, {PID: 4, Memory: 99, Busy: -1},
	}}}
	owners := map[int]owner{
		1: {"a", "t", []string{ids[7], ids[2], ids[3]}}, 2: {"a", "t", []string{ids[2], ids[3], ids[7]}},
		3: {"b", "u", []string{ids[9]}},
	}
	groups := statsOf(gpu.NVIDIA, plan, usage, owners, time.Now())
	sum := map[string]int64{}
	for _, id := range ids {
		st := groups[0].InstanceStats[id]
		alloc := ""
		if a := st.Stats.Attributes["alloc"]; a != nil {
			alloc = *a.StringVal
		}
		sum[alloc] += *st.Summary.IntNumeratorVal
		if got := *st.Stats.Attributes["gpu_unattributed_memory"].FloatNumeratorVal; got != 99 {
			t.Errorf("%s: %g MiB belong to nobody", id, got)
		}
	}
	if sum["a"] != 1001 || sum["b"] != 400 || sum[""] != 0 {
		t.Errorf("memory by task: %v", sum)
	}
	one := groups[0].InstanceStats[ids[3]].Stats.Attributes
	if *one["task_memory"].FloatNumeratorVal != 1001 || *one["task_busy"].FloatNumeratorVal != 30 || *one["busy"].FloatNumeratorVal != 10 || *one["task_processes"].FloatNumeratorVal != 2 {
		t.Errorf("%+v", one)
	}
	if groups[0].InstanceStats[ids[9]].Stats.Attributes["task_busy"] != nil {
		t.Error("an unknown utilisation is told as known")
	}
}
