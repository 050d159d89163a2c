package plugin

import (
	"context"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/device"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"aliquot.example/internal/share"
)

// Nomad 1.11 shows device statistics in its API and in `alloc status -stats` but
// sends none of them to Prometheus (emitStats in client/allocrunner/taskrunner),
// so the plugin serves them itself if metrics_address is set.

// serveMetrics serves /metrics until ctx ends. It logs each failed attempt. A failure has no effect
// on the offered devices.
func (l *loop) serveMetrics(ctx context.Context) {
	server := &http.Server{Handler: l.metrics(ctx), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	// The kernel may take a moment to close the listener of a killed plugin.
	const again = 5 * time.Second
	for ctx.Err() == nil {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", l.config.MetricsAddress)
		if err == nil {
			stop := context.AfterFunc(ctx, func() { server.Close() })
			_ = server.Serve(listener)
			stop()
			return
		}
		l.log.Log(hclog.Warn, "cannot serve metrics, retrying; free the port or change metrics_address",
			"metrics_address", l.config.MetricsAddress, "retry_in", again, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(again):
		}
	}
}

// metrics serves /metrics.
func (l *loop) metrics(ctx context.Context) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{ctx, l})
	mux := http.NewServeMux()
	// If two programs claim to be the same task, a series exists twice. Export all others.
	mux.Handle("GET /metrics",
		promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	return mux
}

// collector reads all values at the time of a scrape.
type collector struct {
	ctx  context.Context
	loop *loop
}

// Describe sends nothing, because the set of metrics depends on the hardware.
func (c collector) Describe(chan<- *prometheus.Desc) {}

var (
	gpuLabels  = []string{"vendor", "group", "class", "gpu"}
	taskLabels = append([]string{"alloc", "task"}, gpuLabels...)
)

func gauge(ch chan<- prometheus.Metric, name, help string, labels []string, value float64, values ...string) {
	ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("aliquot_"+name, help, labels, nil), prometheus.GaugeValue,
		value, values...)
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(c.ctx, 10*time.Second)
	defer cancel()
	c.loop.mu.Lock()
	groups := c.loop.groups
	c.loop.mu.Unlock()
	instances(ch, string(c.loop.maker), groups)
	r, ok := c.loop.usage(ctx)
	if !ok {
		return // the driver hangs, which the metric of the instances shows
	}
	for _, o := range r.plan.Offers {
		u, ok := r.usage[o.ID]
		if !ok {
			continue
		}
		of := []string{string(c.loop.maker), o.Group, o.Class, string(o.ID)}
		gpuMetrics(ch, u, of)
		tasks, stray := tasksOn(o, u, r.owners)
		if o.Slices > 1 {
			gauge(ch, "gpu_unattributed_memory_bytes", "Memory of processes that belong to no task with slices.",
				gpuLabels, float64(stray.Bytes()), of...)
		}
		for id, t := range tasks {
			if id == t.held[0] {
				taskMetrics(ch, o, t, of)
			}
		}
	}
}

func instances(ch chan<- prometheus.Metric, vendor string, groups []*device.DeviceGroup) {
	for _, g := range groups {
		count := map[string]int{"healthy": 0, "unhealthy": 0}
		for _, d := range g.Devices {
			if d.Healthy {
				count["healthy"]++
			} else {
				count["unhealthy"]++
			}
		}
		for state, n := range count {
			gauge(ch, "device_instances", "Device instances offered to Nomad, by health.",
				[]string{"vendor", "group", "state"}, float64(n), vendor, g.Name, state)
		}
	}
}

func gpuMetrics(ch chan<- prometheus.Metric, u Usage, of []string) {
	gauge(ch, "gpu_memory_used_bytes", "Memory in use on the GPU.", gpuLabels, float64(u.MemoryUsed.Bytes()), of...)
	gauge(ch, "gpu_memory_bytes", "Memory of the GPU.", gpuLabels, float64(u.MemoryTotal.Bytes()), of...)
	if u.Busy >= 0 {
		gauge(ch, "gpu_busy_ratio", "Fraction of time in which the GPU ran work, 0 to 1.", gpuLabels, u.Busy/100, of...)
	}
	for _, m := range u.Metrics {
		gauge(ch, "gpu_"+m.Name+suffix(m.Unit), m.Desc, gpuLabels, m.Value, of...)
	}
}

// suffix returns the suffix of a Prometheus metric's name for a unit, "" for a count.
func suffix(unit string) string {
	switch unit {
	case "", "#":
		return ""
	case "W":
		return "_watts"
	case "°C", "C":
		return "_celsius"
	case "%":
		return "_percent"
	}
	return "_" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToLower(unit))
}

func taskMetrics(ch chan<- prometheus.Metric, o share.Offer, t *taskUse, of []string) {
	by := append([]string{t.alloc, t.task}, of...)
	gauge(ch, "task_gpu_slices", "Slices of the GPU that the task was granted.", taskLabels,
		float64(len(t.held)), by...)
	gauge(ch, "task_gpu_memory_used_bytes", "GPU memory in use by the task.", taskLabels,
		float64(t.memory.Bytes()), by...)
	gauge(ch, "task_gpu_memory_granted_bytes", "GPU memory that the task was granted.", taskLabels,
		float64(share.MemoryOf(o.Memory, len(t.held), o.Slices).Bytes()), by...)
	gauge(ch, "task_gpu_processes", "Processes of the task on the GPU.", taskLabels, float64(t.processes), by...)
	if t.busy >= 0 {
		gauge(ch, "task_gpu_busy_ratio", "The task's fraction of the GPU's time, 0 to 1.",
			taskLabels, t.busy/100, by...)
	}
}
