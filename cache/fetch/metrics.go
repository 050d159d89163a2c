package fetch

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the metrics of a cache.
type Metrics struct {
	Registry *prometheus.Registry

	bytes, snapshots                                 *prometheus.CounterVec
	sent, faults, retries, digestErrors, wrongChunks prometheus.Counter
	evicted, evictedBytes                            prometheus.Counter
	objects, partials, stored, free, alive           prometheus.Gauge
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
			Help: "Bytes read, by source: disk, peer or origin."}, []string{"source"}),
		snapshots: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "aliquot", Subsystem: "cache",
			Name: "snapshots_total",
			Help: "Requests for compile caches, by result: here, peer, none or published."},
			[]string{"result"}),
		sent:         counter("sent_bytes_total", "Bytes sent to peers."),
		faults:       counter("peer_faults_total", "Failures of peers."),
		retries:      counter("origin_retries_total", "Repeated requests to origins."),
		digestErrors: counter("digest_errors_total", "Objects whose bytes did not match their digest."),
		wrongChunks:  counter("wrong_chunks_total", "Chunks from peers that differed from the origin's."),
		evicted:      counter("evictions_total", "Objects evicted to make room."),
		evictedBytes: counter("evicted_bytes_total", "Bytes evicted to make room."),
		objects:      gauge("objects", "Complete objects on the disk."),
		partials:     gauge("partial_objects", "Incomplete objects on the disk."),
		stored:       gauge("stored_bytes", "Bytes used by the store."),
		free:         gauge("free_bytes", "Free bytes on the disk."),
		alive:        gauge("peers", "Live peers, without this node."),
	}
	for _, source := range []string{"disk", "peer", "origin"} {
		m.bytes.WithLabelValues(source)
	}
	for _, result := range []string{"here", "peer", "none", "published"} {
		m.snapshots.WithLabelValues(result)
	}
	m.Registry.MustRegister(m.bytes, m.snapshots, m.sent, m.faults, m.retries, m.digestErrors, m.wrongChunks, m.evicted,
		m.evictedBytes, m.objects, m.partials, m.stored, m.free, m.alive)
	return m
}

// Snapshot counts a request for a compile cache by its result.
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
