package plugin

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/share"
)

// What a program says of itself in its environment cannot take the metrics away: not
// by bytes that are no text, nor by two programs of one name.
func TestMetricsInSpiteOfWhatProgramsClaim(t *testing.T) {
	plan := share.NewPlan(gpus(1), []share.Rule{{Selector: share.Any, Mode: share.Shared, Slices: 20}})
	ids := plan.Offers[0].Instances()
	h := newHost(t, nil)
	for pid, env := range map[int][]string{
		10: {"NOMAD_ALLOC_ID=" + allocA, "NOMAD_TASK_NAME=web", "ALIQUOT_DEVICE_IDS=" + ids[0]},
		20: {"NOMAD_TASK_NAME=b\xffd", "ALIQUOT_DEVICE_IDS=" + ids[1]},
		30: {"NOMAD_TASK_NAME=twice", "ALIQUOT_DEVICE_IDS=" + ids[2]},
		40: {"NOMAD_TASK_NAME=twice", "ALIQUOT_DEVICE_IDS=" + ids[3]},
	} {
		h.process(t, pid, "0::/system.slice/x.service\n", env...)
	}
	pids := []int{10, 20, 30, 40}
	usage := Usage{MemoryUsed: 400, MemoryTotal: 80000, Busy: -1}
	for _, pid := range pids {
		usage.Processes = append(usage.Processes, Process{PID: pid, Memory: 100, Busy: -1})
	}
	l := newLoop(gpu.NVIDIA, Config{}, nil, Host{Log: hclog.NewNullLogger()}, nil)
	l.last = readings{plan: plan, usage: map[gpu.ID]Usage{"GPU-0": usage}, owners: h.of(t.Context(), pids), at: time.Now().Add(time.Hour)}
	w := httptest.NewRecorder()
	l.metrics(t.Context()).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{
		`aliquot_gpu_memory_used_bytes{class="h100",gpu="GPU-0",group="h100-0",vendor="nvidia"}`,
		`aliquot_task_gpu_slices{alloc="` + allocA + `",class="h100",gpu="GPU-0",group="h100-0",task="web",vendor="nvidia"} 1`,
		`task="b?d"`,
	} {
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%d without %s:\n%s", w.Code, want, w.Body)
		}
	}
}
