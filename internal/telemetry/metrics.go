// Package telemetry turns what the broker and the audit log do into Prometheus
// metrics. The names are a contract (docs/metrics.md). Only names that are
// configured become label values, also of what ends after a reload.
package telemetry

import (
	"math"
	"slices"
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
	breaker         *prometheus.GaugeVec
	kek             *prometheus.GaugeVec
	hedges          *prometheus.CounterVec
	degraded        *prometheus.CounterVec
	auditRecords    *prometheus.CounterVec
	auditErrors     prometheus.Counter
	auditSync       prometheus.Histogram
	auditHead       prometheus.Gauge
	auditAlarms     *prometheus.CounterVec
	auditFree       prometheus.Gauge
	auditMinFree    prometheus.Gauge
	auditAnchored   *prometheus.GaugeVec
	anchorErrors    prometheus.Counter
	reloadSuccess   prometheus.Gauge

	// hot keeps the series of requests by their labels: to look one up by label
	// values allocates.
	hot sync.Map // requestLabels -> *requestSeries

	// mu is held to write while names change, and to read while a series of a
	// name is looked up: one of a name that is gone must not come back.
	mu             sync.RWMutex
	backends, keys []string // configured now
}

type requestLabels struct{ api, method, client, key, code string }

type requestSeries struct {
	count prometheus.Counter
	took  prometheus.Observer
}

// Of native histograms: the growth from one bucket to the next (10 %), how many
// there are at most, and how soon they are reset rather than made coarser.
const (
	nativeFactor = 1.1
	nativeMax    = 100
	nativeReset  = time.Hour
)

// New returns metrics that are all at zero, but for the configuration: it was
// read. The arguments label keybroker_build_info.
func New(version, revision, goVersion string) *Metrics {
	// Buckets of the classic histograms, in seconds: a cached call takes tens of
	// microseconds, one to a distant KMS hundreds of milliseconds.
	requestBuckets := []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	backendBuckets := []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	syncBuckets := []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5}
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
			Name: "keybroker_backend_requests_total", Help: "KMS calls by backend, operation and class: ok, an error class, or canceled when another recipient was faster.",
		}, []string{"backend", "op", "class"}),
		backendDuration: histogram("keybroker_backend_request_duration_seconds", "How long KMS calls took.", backendBuckets, "backend", "op"),
		backendUp: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "keybroker_backend_up", Help: "Whether the last call got an answer: 1 or 0. Absent before the first call.",
		}, []string{"backend"}),
		breaker: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "keybroker_backend_breaker_state", Help: "Whether calls go to the backend: 0 yes, 1 one tries it again, 2 not for now.",
		}, []string{"backend"}),
		kek: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "keybroker_kek_usable", Help: "Whether the master key could be used for the key when that was last checked: 1 or 0.",
		}, []string{"key", "backend", "kek"}),
		hedges: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keybroker_hedges_total", Help: "Recipients asked beside one that was slow.",
		}, []string{"key"}),
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
			NativeHistogramMaxBucketNumber: nativeMax, NativeHistogramMinResetDuration: nativeReset,
		}),
		auditAlarms: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keybroker_audit_alarms_total", Help: "Starts that found the audit log changed while the broker was down.",
		}, []string{"reason"}),
		auditAnchored: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "keybroker_audit_anchored_seq", Help: "The number of the last audit record whose hash is kept outside the host. Absent before the first.",
		}, nil),
		anchorErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keybroker_audit_anchor_errors_total", Help: "Attempts to keep the audit log's head outside the host that failed.",
		}),
		auditHead: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "keybroker_audit_head_seq", Help: "The number of the last audit record.",
		}),
		auditFree: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "keybroker_audit_free_bytes", Help: "What the audit log's disk has left. NaN while nobody can tell.",
		}),
		auditMinFree: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "keybroker_audit_min_free_bytes", Help: "What the audit log's disk should have left: audit.min_free.",
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
	m.auditFree.Set(math.NaN())
	m.Registry.MustRegister(
		m.requests, m.requestDuration, m.lookups, m.entries, m.runway, m.backendRequests, m.backendDuration,
		m.backendUp, m.breaker, m.kek, m.hedges, m.degraded, m.auditRecords, m.auditErrors, m.auditSync, m.auditHead,
		m.auditAlarms, m.auditFree, m.auditMinFree,
		m.auditAnchored, m.anchorErrors, m.reloadSuccess, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// histogram is both classic and native.
func histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: buckets, NativeHistogramBucketFactor: nativeFactor,
		NativeHistogramMaxBucketNumber: nativeMax, NativeHistogramMinResetDuration: nativeReset,
	}, labels)
}

// Request implements broker.Observer.
func (m *Metrics) Request(api, method, client, key string, code broker.Code, took time.Duration) {
	labels := requestLabels{api, method, client, key, code.String()}
	found, ok := m.hot.Load(labels)
	if !ok {
		found = m.request(labels)
	}
	series := found.(*requestSeries)
	series.count.Inc()
	series.took.Observe(took.Seconds())
}

// request returns the series of labels, for now and for the next calls. If the
// key was taken away while the call was under way, that is of no key.
func (m *Metrics) request(labels requestLabels) any {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if !slices.Contains(m.keys, labels.key) {
		labels.key = ""
	}
	found, _ := m.hot.LoadOrStore(labels, &requestSeries{
		count: m.requests.WithLabelValues(labels.api, labels.method, labels.client, labels.key, labels.code),
		took:  m.requestDuration.WithLabelValues(labels.api, labels.method),
	})
	return found
}

// Lookup implements broker.Observer.
func (m *Metrics) Lookup(key, result string) {
	m.ofKey(key, func() { m.lookups.WithLabelValues(key, result).Inc() })
}

// CacheEntries implements broker.Observer.
func (m *Metrics) CacheEntries(n int) { m.entries.Set(float64(n)) }

// BackendCall implements broker.Observer.
func (m *Metrics) BackendCall(backend, op, class string, took time.Duration) {
	m.ofBackend(backend, func() {
		m.backendRequests.WithLabelValues(backend, op, class).Inc()
		m.backendDuration.WithLabelValues(backend, op).Observe(took.Seconds())
	})
}

// BackendUp implements broker.Observer.
func (m *Metrics) BackendUp(backend string, up bool) {
	m.ofBackend(backend, func() { m.backendUp.WithLabelValues(backend).Set(bit(up)) })
}

// Breaker implements broker.Observer.
func (m *Metrics) Breaker(backend string, state broker.BreakerState) {
	m.ofBackend(backend, func() { m.breaker.WithLabelValues(backend).Set(float64(state)) })
}

// KEK implements broker.Observer.
func (m *Metrics) KEK(key, backend, kek string, usable bool) {
	m.ofKey(key, func() { m.kek.WithLabelValues(key, backend, kek).Set(bit(usable)) })
}

// Hedge implements broker.Observer.
func (m *Metrics) Hedge(key string) {
	m.ofKey(key, func() { m.hedges.WithLabelValues(key).Inc() })
}

// Degraded implements broker.Observer.
func (m *Metrics) Degraded(key string) {
	m.ofKey(key, func() { m.degraded.WithLabelValues(key).Inc() })
}

// Runway implements broker.Observer.
func (m *Metrics) Runway(key string, d time.Duration) {
	m.ofKey(key, func() { m.runway.WithLabelValues(key).Set(d.Seconds()) })
}

// ofKey calls f if key is configured: what ends after its key or backend was
// taken away must not bring a series of it back.
func (m *Metrics) ofKey(key string, f func()) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if slices.Contains(m.keys, key) {
		f()
	}
}

// ofBackend calls f if backend is configured.
func (m *Metrics) ofBackend(backend string, f func()) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if slices.Contains(m.backends, backend) {
		f()
	}
}

// Configured implements broker.Observer: all series of names that a reload took
// away go with them, so that no gauge tells of what is no more, and labels stay
// few however often the configuration changes.
func (m *Metrics) Configured(backends, keys []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, gone := range without(m.backends, backends) {
		of := prometheus.Labels{"backend": gone}
		m.backendRequests.DeletePartialMatch(of)
		m.backendDuration.DeletePartialMatch(of)
		m.backendUp.DeletePartialMatch(of)
		m.breaker.DeletePartialMatch(of)
	}
	for _, gone := range without(m.keys, keys) {
		of := prometheus.Labels{"key": gone}
		m.requests.DeletePartialMatch(of)
		m.lookups.DeletePartialMatch(of)
		m.runway.DeletePartialMatch(of)
		m.degraded.DeletePartialMatch(of)
		m.hedges.DeletePartialMatch(of)
	}
	m.kek.Reset() // the broker tells of those there are, next
	m.hot.Clear() // it may hold series that were deleted
	for _, key := range keys {
		m.degraded.WithLabelValues(key)
		m.hedges.WithLabelValues(key)
		for _, result := range []string{"hit", "miss", "stale", "negative"} {
			m.lookups.WithLabelValues(key, result)
		}
	}
	m.backends, m.keys = slices.Clone(backends), slices.Clone(keys)
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

// AuditAnchored notes the number of the last record whose hash is kept outside the host.
func (m *Metrics) AuditAnchored(seq uint64) { m.auditAnchored.WithLabelValues().Set(float64(seq)) }

// AuditAnchorFailed counts an attempt to keep the log's head outside the host that failed.
func (m *Metrics) AuditAnchorFailed() { m.anchorErrors.Inc() }

// AuditAlarm counts a start that found the log changed.
func (m *Metrics) AuditAlarm(reason string) { m.auditAlarms.WithLabelValues(reason).Inc() }

// AuditFree notes how many bytes the log's disk has left; less than 0 if nobody
// can tell.
func (m *Metrics) AuditFree(bytes int64) {
	if bytes < 0 {
		m.auditFree.Set(math.NaN())
		return
	}
	m.auditFree.Set(float64(bytes))
}

// AuditMinFree notes how many it should have.
func (m *Metrics) AuditMinFree(bytes int64) { m.auditMinFree.Set(float64(bytes)) }

// Reloaded notes whether the configuration could be read.
func (m *Metrics) Reloaded(ok bool) { m.reloadSuccess.Set(bit(ok)) }

// Sealed adds the gauge of the sealed file of the cache, which asks kept at each scrape.
// It may be called once.
func (m *Metrics) Sealed(kept func() bool) {
	m.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "keybroker_cache_sealed_file", Help: "Whether the cache is kept in its sealed file: 1 or 0. Absent without cache.persist.",
	}, func() float64 { return bit(kept()) }))
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// without returns the names of a that are not in b.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(name string) bool { return slices.Contains(b, name) })
}
