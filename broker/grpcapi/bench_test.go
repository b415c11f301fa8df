package grpcapi_test

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/internal/telemetry"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// BenchmarkUnwrapKey compares a cached UnwrapKey, with policy, metrics and audit,
// with a call that does nothing, on the same connection and in the same run. The
// two take turns, so that whatever else the machine does meets both. Metrics:
// p50-ratio is the median latency of UnwrapKey over that of the other,
// throughput-ratio its calls a second over the other's, cpu-ratio its processor
// time, client included, over the other's: the one that says most where other
// processes want the processors too.
func BenchmarkUnwrapKey(b *testing.B) {
	for _, size := range []struct{ callers, pairs int }{{1, 0}, {1, 2}, {64, 0}, {64, 2}} {
		b.Run(fmt.Sprintf("callers=%d/pairs=%d", size.callers, size.pairs), func(b *testing.B) {
			callers, context := size.callers, map[string]string{}
			for i := range size.pairs {
				context[fmt.Sprint("name", i)] = "value"
			}
			f := newFixture(b, withMetrics)
			g := f.generate("tikv", context)
			req := &keybrokerv1.UnwrapKeyRequest{WrappedKey: g.WrappedKey, Context: context}
			unwrap := func() error { _, err := f.keys.UnwrapKey(b.Context(), req); return err }
			nothing := func() error {
				_, err := f.health.Check(b.Context(), &healthpb.HealthCheckRequest{})
				return err
			}
			// The first round warms up.
			f.hammer(b, callers, 64*callers, unwrap)
			f.hammer(b, callers, 64*callers, nothing)
			var ours, theirs series
			b.ResetTimer()
			for done := 0; done < b.N; {
				n := min(b.N-done, 256*callers)
				theirs.add(f.hammer(b, callers, n, nothing))
				ours.add(f.hammer(b, callers, n, unwrap))
				done += n
			}
			b.StopTimer()
			b.ReportMetric(float64(ours.median())/float64(theirs.median()), "p50-ratio")
			b.ReportMetric(theirs.took.Seconds()/ours.took.Seconds(), "throughput-ratio")
			b.ReportMetric(ours.cpu.Seconds()/theirs.cpu.Seconds(), "cpu-ratio")
			b.ReportMetric(float64(ours.cpu.Nanoseconds())/float64(b.N), "cpu-ns/op")
			b.ReportMetric(0, "ns/op") // of both together it says nothing
		})
	}
}

// BenchmarkAudit compares a cached UnwrapKey with its audit record on one broker
// with the same call on another that writes none, in turns and in the same run.
// Metrics: p50-ratio and p99-ratio are latencies over those without, throughput-ratio
// the calls, which are the records, a second over those without. added-fsyncs is
// what the median grew by, in plain fsyncs of one record on the same disk: with
// sync=always a call waits for one at least. TMPDIR says which disk it is.
func BenchmarkAudit(b *testing.B) {
	for _, mode := range []audit.Sync{audit.SyncOS, audit.SyncAlways} {
		for _, callers := range []int{1, 8, 64} {
			b.Run(fmt.Sprintf("sync=%s/callers=%d", mode, callers), func(b *testing.B) {
				with, without := newFixture(b, withMetrics, audited(mode)), newFixture(b, withMetrics, unaudited)
				calls := map[*fixture]func() error{}
				for _, f := range []*fixture{with, without} {
					g := f.generate("tikv", pairs)
					calls[f] = func() error {
						_, err := f.keys.UnwrapKey(b.Context(), &keybrokerv1.UnwrapKeyRequest{WrappedKey: g.WrappedKey, Context: pairs})
						return err
					}
				}
				without.closeAudit()
				for f, call := range calls { // warms up
					f.hammer(b, callers, 64*callers, call)
				}
				var ours, theirs series
				b.ResetTimer()
				for done := 0; done < b.N; {
					n := min(b.N-done, 64*callers)
					theirs.add(without.hammer(b, callers, n, calls[without]))
					ours.add(with.hammer(b, callers, n, calls[with]))
					done += n
				}
				b.StopTimer()
				added := ours.quantile(.5) - theirs.quantile(.5)
				b.ReportMetric(float64(ours.quantile(.5))/float64(theirs.quantile(.5)), "p50-ratio")
				b.ReportMetric(float64(ours.quantile(.99))/float64(theirs.quantile(.99)), "p99-ratio")
				b.ReportMetric(theirs.took.Seconds()/ours.took.Seconds(), "throughput-ratio")
				b.ReportMetric(float64(b.N)/ours.took.Seconds(), "records/s")
				b.ReportMetric(float64(added)/float64(plainSync(b)), "added-fsyncs")
				b.ReportMetric(0, "ns/op") // of both together it says nothing
			})
		}
	}
}

// audited has the records written as mode says.
func audited(mode audit.Sync) func(*fixture) {
	return func(f *fixture) {
		f.closeAudit()
		var err error
		f.auditLog, err = audit.Open(audit.Config{
			Path: f.auditPath, Node: "test", Sync: mode, SyncInterval: 100 * time.Millisecond,
			Now: time.Now, Random: rand.Reader, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			f.t.Fatal(err)
		}
		f.options.Audit = f.auditLog
	}
}

// unaudited has calls answered though their record cannot be written. Once the
// log is closed, that costs nothing.
func unaudited(f *fixture) { f.settings.AllowUnaudited = true }

// plainSync is the median time of a write of as much as a record, and an fsync.
func plainSync(b *testing.B) time.Duration {
	f, err := os.Create(filepath.Join(b.TempDir(), "plain"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var s series
	for range 200 {
		began := time.Now()
		if _, err := f.Write(make([]byte, 600)); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
		s.each = append(s.each, time.Since(began))
	}
	return s.quantile(.5)
}

// BenchmarkUnwrapKeyOnly and BenchmarkNoOp are for profiles and allocations.
func BenchmarkUnwrapKeyOnly(b *testing.B) {
	f := newFixture(b, withMetrics)
	g := f.generate("tikv", pairs)
	req := &keybrokerv1.UnwrapKeyRequest{WrappedKey: g.WrappedKey, Context: pairs}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.keys.UnwrapKey(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkNoOp(b *testing.B) {
	f := newFixture(b, withMetrics)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.health.Check(b.Context(), &healthpb.HealthCheckRequest{}); err != nil {
			b.Fatal(err)
		}
	}
}

// withMetrics observes the broker as the daemon does.
func withMetrics(f *fixture) {
	f.options.Observer = telemetry.New("test", "test", runtime.Version())
}

// series is how long calls took, each and all, and how much processor time.
type series struct {
	each      []time.Duration
	took, cpu time.Duration
}

func (s *series) add(more series) {
	s.each = append(s.each, more.each...)
	s.took += more.took
	s.cpu += more.cpu
}

func (s *series) median() time.Duration { return s.quantile(.5) }

func (s *series) quantile(q float64) time.Duration {
	slices.Sort(s.each)
	return s.each[int(q*float64(len(s.each)-1))]
}

// hammer makes n calls, by so many callers at a time.
func (f *fixture) hammer(b *testing.B, callers, n int, call func() error) series {
	each := make([]time.Duration, n)
	var all sync.WaitGroup
	began, spent := time.Now(), processorTime(b)
	for c := range min(callers, n) {
		all.Go(func() {
			for i := c; i < n; i += callers {
				began := time.Now()
				if err := call(); err != nil {
					b.Error(err)
					return
				}
				each[i] = time.Since(began)
			}
		})
	}
	all.Wait()
	return series{each, time.Since(began), processorTime(b) - spent}
}

// processorTime is what this process has used so far.
func processorTime(b *testing.B) time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
