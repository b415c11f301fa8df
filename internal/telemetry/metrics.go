// Package telemetry turns what the broker and the audit log do into Prometheus
// metrics. The names are a contract (docs/metrics.md); only configured names
// become label values.
package telemetry

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/keybroker/keybroker/broker"
)

// Metrics are the daemon's metrics, on a registry of their own. It implements
// broker.Observer. It is safe for concurrent use.
type Metrics struct {
	// Registry has all of them, and the Go runtime's and the process's.
	Registry *prometheus.Registry

	requests        *prometheus.CounterVec
	requestDuration *prometheus.HistogramVec
	lookups         *prometheus.CounterVec
	entries         prometheus.Gauge
	runway          *prometheus.GaugeVec
	backendRequests *prometheus.CounterVec
	backendDuration *prometheus.HistogramVec
	backendUp       *prometheus.GaugeVec
	degraded        *prometheus.CounterVec
	auditRecords    *prometheus.CounterVec
	auditErrors     prometheus.Counter
	auditSync       prometheus.Histogram
	auditHead       prometheus.Gauge
	reloadSuccess   prometheus.Gauge

	// hot keeps the label sets of requests: a lookup by label values allocates.
	hot sync.Map // requestLabels -> *requestSeries

	mu             sync.Mutex
	backends, keys []string // configured now
}

type requestLabels struct{ api, method, client, key, code string }

type requestSeries struct {
	count prometheus.Counter
	took  prometheus.Observer
}

// Buckets of the classic histograms, in seconds: a cached call takes tens of
// microseconds, one to a distant KMS hundreds of milliseconds.
var (
	requestBuckets = []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	backendBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	syncBuckets    = []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5}
)

// nativeFactor is the growth of native histogram buckets: 10 %.
const nativeFactor = 1.1

// New returns metrics that are all at zero. version and revision label
// keybroker_build_info.
func New(version, revision, goVersion string) *Metrics {
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keybroker_requests_total", Help: "Calls answered, by front door, method, client, key and outcome.",
		}, []string{"api", "method", "client", "key", "code"}),
		requestDuration: histogram("keybroker_request_duration_seconds", "How long calls took, audit record included.", requestBuckets, "api", "method"),
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keybroker_cache_requests_total", Help: "Intermediate keys looked for: hit, miss, stale or negative.",
		}, []string{"key", "result"}),
		entries: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "keybroker_cache_entries", Help: "Intermediate keys in the cache.",
		}),
		runway: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "keybroker_outage_runway_seconds", Help: "How long this node can serve the key if every KMS of it vanishes now.",
		}, []string{"key"}),
		backendRequests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keybroker_backend_requests_total", Help: "KMS calls by backend, operation and class: ok or an error class.",
		}, []string{"backend", "op", "class"}),
		backendDuration: histogram("keybroker_backend_request_duration_seconds", "How long KMS calls took.", backendBuckets, "backend", "op"),
		backendUp: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "keybroker_backend_up", Help: "Whether the last call got an answer: 1 or 0. Absent before the first call.",
		}, []string{"backend"}),
		degraded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keybroker_envelopes_degraded_total", Help: "Envelopes made that lack some of their key's recipients.",
		}, []string{"key"}),
		auditRecords: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keybroker_audit_records_total", Help: "Audit records written.",
		}, []string{"event", "outcome"}),
		auditErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keybroker_audit_write_errors_total", Help: "Audit writes and syncs that failed.",
		}),
		auditSync: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "keybroker_audit_sync_duration_seconds", Help: "How long it took to bring audit records to disk.",
			Buckets: syncBuckets, NativeHistogramBucketFactor: nativeFactor,
		}),
		auditHead: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "keybroker_audit_head_seq", Help: "The number of the last audit record.",
		}),
		reloadSuccess: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "keybroker_config_last_reload_success", Help: "Whether the last attempt to read the configuration succeeded: 1 or 0.",
		}),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "keybroker_build_info", Help: "Always 1; the labels say what runs.",
	}, []string{"version", "revision", "goversion"})
	build.WithLabelValues(version, revision, goVersion).Set(1)
	m.reloadSuccess.Set(1)
	m.Registry.MustRegister(
		m.requests, m.requestDuration, m.lookups, m.entries, m.runway, m.backendRequests, m.backendDuration,
		m.backendUp, m.degraded, m.auditRecords, m.auditErrors, m.auditSync, m.auditHead, m.reloadSuccess, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// histogram is both classic and native.
func histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: buckets, NativeHistogramBucketFactor: nativeFactor,
		NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
	}, labels)
}

// Request implements broker.Observer.
func (m *Metrics) Request(api, method, client, key string, code broker.Code, took time.Duration) {
	labels := requestLabels{api, method, client, key, code.String()}
	found, ok := m.hot.Load(labels)
	if !ok {
		found, _ = m.hot.LoadOrStore(labels, &requestSeries{
			count: m.requests.WithLabelValues(api, method, client, key, labels.code),
			took:  m.requestDuration.WithLabelValues(api, method),
		})
	}
	series := found.(*requestSeries)
	series.count.Inc()
	series.took.Observe(took.Seconds())
}

// Lookup implements broker.Observer.
func (m *Metrics) Lookup(key, result string) { m.lookups.WithLabelValues(key, result).Inc() }

// CacheEntries implements broker.Observer.
func (m *Metrics) CacheEntries(n int) { m.entries.Set(float64(n)) }

// BackendCall implements broker.Observer.
func (m *Metrics) BackendCall(backend, op, class string, took time.Duration) {
	m.backendRequests.WithLabelValues(backend, op, class).Inc()
	m.backendDuration.WithLabelValues(backend, op).Observe(took.Seconds())
}

// BackendUp implements broker.Observer.
func (m *Metrics) BackendUp(backend string, up bool) {
	m.backendUp.WithLabelValues(backend).Set(bit(up))
}

// Degraded implements broker.Observer.
func (m *Metrics) Degraded(key string) { m.degraded.WithLabelValues(key).Inc() }

// Runway implements broker.Observer.
func (m *Metrics) Runway(key string, d time.Duration) { m.runway.WithLabelValues(key).Set(d.Seconds()) }

// Configured implements broker.Observer: the series of names that a reload took
// away go with them, so that no gauge tells of what is no more.
func (m *Metrics) Configured(backends, keys []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, gone := range without(m.backends, backends) {
		m.backendUp.DeleteLabelValues(gone)
	}
	for _, gone := range without(m.keys, keys) {
		m.runway.DeleteLabelValues(gone)
	}
	for _, key := range keys {
		m.degraded.WithLabelValues(key)
		for _, result := range []string{"hit", "miss", "stale"} {
			m.lookups.WithLabelValues(key, result)
		}
	}
	m.backends, m.keys = backends, keys
}

// AuditWritten counts a record.
func (m *Metrics) AuditWritten(event, outcome string) {
	m.auditRecords.WithLabelValues(event, outcome).Inc()
}

// AuditWriteError counts a write or sync that failed.
func (m *Metrics) AuditWriteError() { m.auditErrors.Inc() }

// AuditSynced notes how long a sync took.
func (m *Metrics) AuditSynced(took time.Duration) { m.auditSync.Observe(took.Seconds()) }

// AuditHead notes the number of the last record.
func (m *Metrics) AuditHead(seq uint64) { m.auditHead.Set(float64(seq)) }

// Reloaded notes whether the configuration could be read.
func (m *Metrics) Reloaded(ok bool) { m.reloadSuccess.Set(bit(ok)) }

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// without returns the names of a that are not in b.
func without(a, b []string) []string {
	there := make(map[string]bool, len(b))
	for _, name := range b {
		there[name] = true
	}
	var gone []string
	for _, name := range a {
		if !there[name] {
			gone = append(gone, name)
		}
	}
	return gone
}
