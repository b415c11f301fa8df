package telemetry_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/internal/telemetry"
)

var _ broker.Observer = (*telemetry.Metrics)(nil)

// told returns Metrics that have been told of everything once.
func told() *telemetry.Metrics {
	m := telemetry.New("v1.2.3", "abcdef", "go1.26")
	m.Configured([]string{"vault"}, []string{"tikv"})
	m.Request("grpc", "UnwrapKey", "store", "tikv", broker.CodeOK, time.Millisecond)
	m.Request("grpc", "UnwrapKey", "", "", broker.CodePermissionDenied, time.Millisecond)
	m.Lookup("tikv", "hit")
	m.CacheEntries(3)
	m.Sealed(func() bool { return true })
	m.BackendCall("vault", "unwrap", "ok", time.Millisecond)
	m.BackendUp("vault", true)
	m.Breaker("vault", broker.BreakerHalfOpen)
	m.KEK("tikv", "vault", "master", true)
	m.Hedge("tikv")
	m.Degraded("tikv")
	m.Runway("tikv", 90*time.Minute)
	m.AuditWritten("unwrap", "ok")
	m.AuditWriteError()
	m.AuditSynced(time.Millisecond)
	m.AuditHead(42)
	m.AuditAlarm("log_shortened")
	m.AuditFree(1 << 30)
	m.AuditMinFree(64 << 20)
	m.AuditAnchored(40)
	m.AuditAnchorFailed()
	x := m.AuditExport()
	x.Exported(30)
	x.Rejected(2)
	x.Missing(3)
	x.Seq(40)
	x.Up(true)
	m.Reloaded(false)
	return m
}

// golden is the text of all that is told above but histograms.
const golden = `
# HELP keybroker_audit_alarms_total Starts that found the audit log changed while the broker was down.
# TYPE keybroker_audit_alarms_total counter
keybroker_audit_alarms_total{reason="log_shortened"} 1
# HELP keybroker_audit_anchor_errors_total Attempts to keep the audit log's head outside the host that failed.
# TYPE keybroker_audit_anchor_errors_total counter
keybroker_audit_anchor_errors_total 1
# HELP keybroker_audit_anchored_seq The number of the last audit record whose hash is kept outside the host. Absent before the first.
# TYPE keybroker_audit_anchored_seq gauge
keybroker_audit_anchored_seq 40
# HELP keybroker_audit_export_missing_total Audit records that were gone from the log before they were exported.
# TYPE keybroker_audit_export_missing_total counter
keybroker_audit_export_missing_total 3
# HELP keybroker_audit_export_records_total Audit records that the collector has taken.
# TYPE keybroker_audit_export_records_total counter
keybroker_audit_export_records_total 30
# HELP keybroker_audit_export_rejected_total Audit records that the collector does not want.
# TYPE keybroker_audit_export_rejected_total counter
keybroker_audit_export_rejected_total 2
# HELP keybroker_audit_export_seq The number of the last audit record that the collector has.
# TYPE keybroker_audit_export_seq gauge
keybroker_audit_export_seq 40
# HELP keybroker_audit_export_up Whether the last attempt to export audit records succeeded: 1 or 0.
# TYPE keybroker_audit_export_up gauge
keybroker_audit_export_up 1
# HELP keybroker_audit_free_bytes What the audit log's disk has left. NaN while nobody can tell.
# TYPE keybroker_audit_free_bytes gauge
keybroker_audit_free_bytes 1.073741824e+09
# HELP keybroker_audit_head_seq The number of the last audit record.
# TYPE keybroker_audit_head_seq gauge
keybroker_audit_head_seq 42
# HELP keybroker_audit_min_free_bytes What the audit log's disk should have left: audit.min_free.
# TYPE keybroker_audit_min_free_bytes gauge
keybroker_audit_min_free_bytes 6.7108864e+07
# HELP keybroker_audit_records_total Audit records written.
# TYPE keybroker_audit_records_total counter
keybroker_audit_records_total{event="unwrap",outcome="ok"} 1
# HELP keybroker_audit_write_errors_total Audit writes and syncs that failed.
# TYPE keybroker_audit_write_errors_total counter
keybroker_audit_write_errors_total 1
# HELP keybroker_backend_breaker_state Whether calls go to the backend: 0 yes, 1 one tries it again, 2 not for now.
# TYPE keybroker_backend_breaker_state gauge
keybroker_backend_breaker_state{backend="vault"} 1
# HELP keybroker_backend_requests_total KMS calls by backend, operation and class: ok, an error class, or canceled when another recipient was faster.
# TYPE keybroker_backend_requests_total counter
keybroker_backend_requests_total{backend="vault",class="ok",op="unwrap"} 1
# HELP keybroker_backend_up Whether the last call got an answer: 1 or 0. Absent before the first call.
# TYPE keybroker_backend_up gauge
keybroker_backend_up{backend="vault"} 1
# HELP keybroker_build_info Always 1; the labels say what runs.
# TYPE keybroker_build_info gauge
keybroker_build_info{goversion="go1.26",revision="abcdef",version="v1.2.3"} 1
# HELP keybroker_cache_entries Intermediate keys in the cache.
# TYPE keybroker_cache_entries gauge
keybroker_cache_entries 3
# HELP keybroker_cache_requests_total Intermediate keys looked for: hit, miss, stale or negative.
# TYPE keybroker_cache_requests_total counter
keybroker_cache_requests_total{key="tikv",result="hit"} 1
keybroker_cache_requests_total{key="tikv",result="miss"} 0
keybroker_cache_requests_total{key="tikv",result="negative"} 0
keybroker_cache_requests_total{key="tikv",result="stale"} 0
# HELP keybroker_cache_sealed_file Whether the cache is kept in its sealed file: 1 or 0. Absent without cache.persist.
# TYPE keybroker_cache_sealed_file gauge
keybroker_cache_sealed_file 1
# HELP keybroker_config_last_reload_success Whether the last attempt to read the configuration succeeded: 1 or 0.
# TYPE keybroker_config_last_reload_success gauge
keybroker_config_last_reload_success 0
# HELP keybroker_envelopes_degraded_total Envelopes made that lack some of their key's recipients.
# TYPE keybroker_envelopes_degraded_total counter
keybroker_envelopes_degraded_total{key="tikv"} 1
# HELP keybroker_hedges_total Recipients asked beside one that was slow.
# TYPE keybroker_hedges_total counter
keybroker_hedges_total{key="tikv"} 1
# HELP keybroker_kek_usable Whether the master key could be used for the key when that was last checked: 1 or 0.
# TYPE keybroker_kek_usable gauge
keybroker_kek_usable{backend="vault",kek="master",key="tikv"} 1
# HELP keybroker_outage_runway_seconds How long this node can serve the key if every KMS of it vanishes now.
# TYPE keybroker_outage_runway_seconds gauge
keybroker_outage_runway_seconds{key="tikv"} 5400
# HELP keybroker_requests_total Calls answered, by front door, method, client, key and outcome.
# TYPE keybroker_requests_total counter
keybroker_requests_total{api="grpc",client="",code="PERMISSION_DENIED",key="",method="UnwrapKey"} 1
keybroker_requests_total{api="grpc",client="store",code="OK",key="tikv",method="UnwrapKey"} 1
`

// histograms are the histograms and their labels.
var histograms = map[string][]string{
	"keybroker_request_duration_seconds":         {"api", "method"},
	"keybroker_backend_request_duration_seconds": {"backend", "op"},
	"keybroker_audit_sync_duration_seconds":      {},
}

func TestNamesLabelsAndTypes(t *testing.T) {
	var got strings.Builder
	for _, f := range ours(t, told()) {
		if _, ok := histograms[f.GetName()]; ok {
			continue
		}
		if _, err := expfmt.MetricFamilyToText(&got, f); err != nil {
			t.Fatal(err)
		}
	}
	want := strings.TrimPrefix(golden, "\n")
	if got.String() != want {
		t.Errorf("the metrics are\n%s\nwant\n%s", got.String(), want)
	}
}

// TestHistograms: each is classic and native at once.
func TestHistograms(t *testing.T) {
	found := 0
	for _, f := range ours(t, told()) {
		labels, ok := histograms[f.GetName()]
		if !ok {
			continue
		}
		found++
		if f.GetType() != dto.MetricType_HISTOGRAM || len(f.Metric) != 1 {
			t.Errorf("%s is a %v with %d series", f.GetName(), f.GetType(), len(f.Metric))
			continue
		}
		h := f.Metric[0].GetHistogram()
		if len(h.Bucket) == 0 || h.Schema == nil || h.GetSampleSum() < 0.001 || len(h.PositiveSpan) == 0 {
			t.Errorf("%s: %v", f.GetName(), h)
		}
		if got := labelsOf(f.Metric[0]); !slices.Equal(got, labels) {
			t.Errorf("%s has the labels %v, want %v", f.GetName(), got, labels)
		}
	}
	if found != len(histograms) {
		t.Errorf("%d histograms, want %d", found, len(histograms))
	}
}

// TestLint: names, help and units are as Prometheus would have them.
func TestLint(t *testing.T) {
	problems, err := promlint.NewWithMetricFamilies(ours(t, told())).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// TestBeforeTheFirstCall: what nothing is known of has no series, and what counts
// is there at zero, so that the first event shows as an increase.
func TestBeforeTheFirstCall(t *testing.T) {
	m := telemetry.New("v1.2.3", "abcdef", "go1.26")
	m.Configured([]string{"vault"}, []string{"tikv"})
	for name, want := range map[string]int{
		"keybroker_backend_up":                 0,
		"keybroker_outage_runway_seconds":      0,
		"keybroker_requests_total":             0,
		"keybroker_cache_requests_total":       4,
		"keybroker_envelopes_degraded_total":   1,
		"keybroker_audit_write_errors_total":   1,
		"keybroker_config_last_reload_success": 1,
	} {
		if n := len(seriesOf(t, m, name)); n != want {
			t.Errorf("%s has %d series, want %d", name, n, want)
		}
	}
	if v := seriesOf(t, m, "keybroker_config_last_reload_success")[0].GetGauge().GetValue(); v != 1 {
		t.Errorf("keybroker_config_last_reload_success is %v, want 1", v)
	}
}

// TestRemovedNames: no series tells of a backend or a key that a reload took
// away; those of the others go on.
func TestRemovedNames(t *testing.T) {
	m := told()
	m.Configured([]string{"vault", "aws"}, []string{"tikv", "other"})
	m.BackendCall("aws", "unwrap", "ok", time.Millisecond)
	m.BackendUp("aws", false)
	m.Runway("other", time.Minute)
	m.Request("grpc", "UnwrapKey", "store", "other", broker.CodeOK, time.Millisecond)

	m.KEK("other", "aws", "gone", true) // a recipient may go while its key and backend stay
	m.Configured([]string{"aws"}, []string{"other"})
	wantNone(t, m, "vault", "tikv", "gone")
	for name, want := range map[string]int{
		"keybroker_backend_up":                       1,
		"keybroker_backend_requests_total":           1,
		"keybroker_backend_request_duration_seconds": 1,
		"keybroker_outage_runway_seconds":            1,
		"keybroker_cache_requests_total":             4,
		"keybroker_requests_total":                   2, // other, and the caller who was no client
	} {
		if n := len(seriesOf(t, m, name)); n != want {
			t.Errorf("%s has %d series, want %d", name, n, want)
		}
	}

	// What was under way when the names were taken away ends without them, and is
	// counted as a call all the same.
	m.Request("grpc", "UnwrapKey", "store", "tikv", broker.CodeOK, time.Millisecond)
	m.Request("grpc", "UnwrapKey", "store", "tikv", broker.CodeOK, time.Millisecond)
	m.BackendCall("vault", "unwrap", "unavailable", time.Second)
	m.BackendUp("vault", false)
	m.Breaker("vault", broker.BreakerOpen)
	m.KEK("tikv", "vault", "master", false)
	m.Hedge("tikv")
	m.Lookup("tikv", "miss")
	m.Degraded("tikv")
	m.Runway("tikv", time.Minute)
	wantNone(t, m, "vault", "tikv")
	if n := countOf(seriesOf(t, m, "keybroker_requests_total"), "client", "store"); n != 3 {
		t.Errorf("%v calls of the client were counted, want 1 with other and 2 without a key", n)
	}

	// A key that comes back is counted from the beginning, and is seen.
	m.Configured([]string{"aws"}, []string{"other", "tikv"})
	m.Request("grpc", "UnwrapKey", "store", "tikv", broker.CodeOK, time.Millisecond)
	if n := countOf(seriesOf(t, m, "keybroker_requests_total"), "key", "tikv"); n != 1 {
		t.Errorf("%v calls were counted for a key that came back, want 1", n)
	}
}

// TestConcurrentUse: everything is told from many goroutines, while names change
// and somebody scrapes, and no call is lost.
func TestConcurrentUse(t *testing.T) {
	m := telemetry.New("v1.2.3", "abcdef", "go1.26")
	m.Configured([]string{"vault"}, []string{"tikv"})
	var all sync.WaitGroup
	const callers, calls = 8, 200
	for range callers {
		all.Go(func() {
			for i := range calls {
				m.Request("grpc", "UnwrapKey", "store", "tikv", broker.CodeOK, time.Microsecond)
				m.Request("grpc", "UnwrapKey", "store", "other", broker.CodeOK, time.Microsecond)
				m.BackendCall("aws", "unwrap", "ok", time.Microsecond)
				m.Lookup("other", "hit")
				switch i % 4 {
				case 0:
					m.Configured([]string{"vault"}, []string{"tikv"})
				case 1:
					m.Configured([]string{"vault", "aws"}, []string{"tikv", "other"})
				case 2:
					if _, err := m.Registry.Gather(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	if n := countOf(seriesOf(t, m, "keybroker_requests_total"), "key", "tikv"); n != callers*calls {
		t.Errorf("%v calls were counted, want %d", n, callers*calls)
	}
	m.Configured([]string{"vault"}, []string{"tikv"})
	wantNone(t, m, "aws", "other")
}

// TestDocument: docs/metrics.md names the metrics there are, with their types and
// labels, and no others.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{} // name -> type and labels
	for _, row := range regexp.MustCompile("(?m)^\\| `(keybroker_[a-z_]+)` \\| ([a-z]+) \\|([^|]*)\\|").FindAllStringSubmatch(string(text), -1) {
		if documented[row[1]] != "" {
			t.Errorf("%s has two rows", row[1])
		}
		documented[row[1]] = row[2] + " " + strings.Join(regexp.MustCompile("`([a-z_]+)`").FindAllString(row[3], -1), "")
	}
	for _, f := range ours(t, told()) {
		labels := ""
		for _, l := range labelsOf(f.Metric[0]) {
			labels += "`" + l + "`"
		}
		want := strings.ToLower(f.GetType().String()) + " " + labels
		if got := documented[f.GetName()]; got != want {
			t.Errorf("docs/metrics.md says of %s %q, want %q", f.GetName(), got, want)
		}
		delete(documented, f.GetName())
	}
	for name := range documented {
		t.Errorf("docs/metrics.md has %s, which does not exist", name)
	}
}

// TestAlertsAndDashboard: what they query exists.
func TestAlertsAndDashboard(t *testing.T) {
	names := map[string]bool{}
	for _, f := range ours(t, told()) {
		names[f.GetName()] = true
		if f.GetType() == dto.MetricType_HISTOGRAM {
			names[f.GetName()+"_bucket"] = true
		}
	}
	for _, path := range []string{"../../deploy/prometheus/keybroker.rules.yml", "../../deploy/grafana/keybroker.json"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		queried := regexp.MustCompile(`\bkeybroker_[a-z_]+`).FindAllString(string(text), -1)
		if len(queried) < 5 {
			t.Errorf("%s queries %q only", path, queried)
		}
		for _, name := range queried {
			if !names[name] {
				t.Errorf("%s queries %s, which does not exist", path, name)
			}
		}
	}
}

// ours are the metrics that are not the runtime's.
func ours(t *testing.T, m *telemetry.Metrics) []*dto.MetricFamily {
	t.Helper()
	families, err := m.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	families = slices.DeleteFunc(families, func(f *dto.MetricFamily) bool { return !strings.HasPrefix(f.GetName(), "keybroker_") })
	if len(families) == 0 {
		t.Fatal("there are no metrics")
	}
	return families
}

// seriesOf are the series of one metric.
func seriesOf(t *testing.T, m *telemetry.Metrics, name string) []*dto.Metric {
	t.Helper()
	for _, f := range ours(t, m) {
		if f.GetName() == name {
			return f.Metric
		}
	}
	return nil
}

// countOf adds up the counters whose label name is value.
func countOf(series []*dto.Metric, name, value string) (n float64) {
	for _, m := range series {
		for _, l := range m.Label {
			if l.GetName() == name && l.GetValue() == value {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

// wantNone fails the test if any series has one of these label values.
func wantNone(t *testing.T, m *telemetry.Metrics, values ...string) {
	t.Helper()
	for _, f := range ours(t, m) {
		for _, series := range f.Metric {
			for _, l := range series.Label {
				if slices.Contains(values, l.GetValue()) {
					t.Errorf("%s has %s=%q", f.GetName(), l.GetName(), l.GetValue())
				}
			}
		}
	}
}

// labelsOf returns a series' label names, sorted.
func labelsOf(m *dto.Metric) []string {
	names := []string{}
	for _, l := range m.Label {
		names = append(names, l.GetName())
	}
	return names
}
