package telemetry

import "github.com/prometheus/client_golang/prometheus"

// AuditExport are the metrics of the audit log's export.
type AuditExport struct {
	records, rejected, missing prometheus.Counter
	seq, up                    prometheus.Gauge
}

// AuditExport adds the metrics of the audit log's export. It is called once, and
// only if there is one.
func (m *Metrics) AuditExport() *AuditExport {
	x := &AuditExport{
		records: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keybroker_audit_export_records_total", Help: "Audit records that the collector has taken.",
		}),
		rejected: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keybroker_audit_export_rejected_total", Help: "Audit records that the collector does not want.",
		}),
		missing: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keybroker_audit_export_missing_total", Help: "Audit records that were gone from the log before they were exported.",
		}),
		seq: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "keybroker_audit_export_seq", Help: "The number of the last audit record that the collector has.",
		}),
		up: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "keybroker_audit_export_up", Help: "Whether the last attempt to export audit records succeeded: 1 or 0.",
		}),
	}
	m.Registry.MustRegister(x.records, x.rejected, x.missing, x.seq, x.up)
	return x
}

// Exported counts records that the collector has taken.
func (x *AuditExport) Exported(n int) { x.records.Add(float64(n)) }

// Rejected counts records that the collector does not want.
func (x *AuditExport) Rejected(n int64) { x.rejected.Add(float64(n)) }

// Missing counts records that were gone before they were exported.
func (x *AuditExport) Missing(n uint64) { x.missing.Add(float64(n)) }

// Seq notes the number of the last record that the collector has.
func (x *AuditExport) Seq(seq uint64) { x.seq.Set(float64(seq)) }

// Up notes whether the last attempt succeeded.
func (x *AuditExport) Up(up bool) { x.up.Set(bit(up)) }
