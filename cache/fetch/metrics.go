package fetch

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the metrics of a cache.
type Metrics struct {
	Registry *prometheus.Registry

	bytes, snapshots                       *prometheus.CounterVec
	sent, faults, retries, poisoned, liars prometheus.Counter
	evicted, evictedBytes                  prometheus.Counter
	objects, partials, stored, free, alive prometheus.Gauge
}

// NewMetrics returns metrics in a new registry.
func NewMetrics() *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "aliquot", Subsystem: "cache", Name: name,
			Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "aliquot", Subsystem: "cache", Name: name,
			Help: help})
	}
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "aliquot", Subsystem: "cache",
			Name: "read_bytes_total",
			Help: "Bytes that were asked for, by where they came from: disk, peer or origin."}, []string{"source"}),
		snapshots: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "aliquot", Subsystem: "cache",
			Name: "snapshots_total",
			Help: "Questions for compiled caches, by how they ended: here, peer, none or published."},
			[]string{"result"}),
		sent:         counter("sent_bytes_total", "Bytes that were sent to peers."),
		faults:       counter("peer_faults_total", "Failures of peers."),
		retries:      counter("origin_retries_total", "Questions to an origin that were asked again."),
		poisoned:     counter("digest_errors_total", "Objects whose bytes did not have their digest."),
		liars:        counter("wrong_chunks_total", "Chunks of peers that were others than the origin's."),
		evicted:      counter("evictions_total", "Objects that made room."),
		evictedBytes: counter("evicted_bytes_total", "Bytes that made room."),
		objects:      gauge("objects", "Whole objects on the disk."),
		partials:     gauge("partial_objects", "Objects of which a part is on the disk."),
		stored:       gauge("stored_bytes", "Bytes that the store takes."),
		free:         gauge("free_bytes", "Bytes that the disk has left."),
		alive:        gauge("peers", "Peers that are alive, this node not among them."),
	}
	for _, source := range []string{"disk", "peer", "origin"} {
		m.bytes.WithLabelValues(source)
	}
	for _, result := range []string{"here", "peer", "none", "published"} {
		m.snapshots.WithLabelValues(result)
	}
	m.Registry.MustRegister(m.bytes, m.snapshots, m.sent, m.faults, m.retries, m.poisoned, m.liars, m.evicted,
		m.evictedBytes, m.objects, m.partials, m.stored, m.free, m.alive)
	return m
}

// Snapshot counts a request for a compiled cache by its result.
func (m *Metrics) Snapshot(result string) { m.snapshots.WithLabelValues(result).Inc() }

// Evicted counts an evicted object.
func (m *Metrics) Evicted(_ string, size int64) {
	m.evicted.Inc()
	m.evictedBytes.Add(float64(size))
}

// Measure updates the gauges.
func (c *Cache) Measure() {
	m, st := c.o.Metrics, c.o.Store.Stats()
	m.objects.Set(float64(st.Objects))
	m.partials.Set(float64(st.Partials))
	m.stored.Set(float64(st.Bytes))
	m.free.Set(float64(st.Free))
	if c.o.Network != nil {
		_, peers := c.o.Network.Peers()
		m.alive.Set(float64(max(0, len(peers)-1)))
	}
}
