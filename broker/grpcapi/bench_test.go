package grpcapi_test

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

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

func (s *series) median() time.Duration {
	slices.Sort(s.each)
	return s.each[len(s.each)/2]
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
