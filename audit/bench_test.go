package audit_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/audit"
)

// sampleRecord is what a cached unwrap writes.
func sampleRecord() audit.Record {
	uid, gid := uint32(998), uint32(997)
	return audit.Record{
		Event: audit.EventUnwrap, Outcome: audit.OutcomeOK, Code: "OK",
		Client:   audit.Client{Name: "tikv", Method: "UnwrapKey", UID: &uid, GID: &gid, PID: 4242},
		Key:      "tikv",
		Envelope: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		Context:  map[string]string{"cluster": "prod-1"},
		Source:   "cache", Backend: "vault-main", KEK: "vault:cluster/transit/tikv:3",
		RequestID: "KQZ3N4V5JX7YH2M6T1B0C8D9EF", Latency: 87 * time.Microsecond,
	}
}

// BenchmarkAppend measures what a record adds to a call: ns/op is the time
// between records, latency-ns what one caller waits.
func BenchmarkAppend(b *testing.B) {
	for _, mode := range []audit.Sync{audit.SyncOS, audit.SyncAlways} {
		for _, callers := range []int{1, 8, 64} {
			b.Run(fmt.Sprintf("sync=%s/callers=%d", mode, callers), func(b *testing.B) {
				log, err := audit.Open(audit.Config{
					Path: filepath.Join(b.TempDir(), "audit.jsonl"), Node: "bench",
					Sync: mode, SyncInterval: 100 * time.Millisecond,
					Now: time.Now, Random: rand.Reader, Logger: slog.New(slog.DiscardHandler),
				})
				if err != nil {
					b.Fatal(err)
				}
				defer func() { _ = log.Close(context.Background()) }()
				b.ReportAllocs()
				b.ResetTimer()
				var group sync.WaitGroup
				for i := range callers {
					share := b.N / callers
					if i < b.N%callers {
						share++
					}
					group.Go(func() {
						r := sampleRecord()
						for range share {
							if _, err := log.Append(context.Background(), r); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				group.Wait()
				b.StopTimer()
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())*float64(callers)/float64(b.N), "latency-ns")
			})
		}
	}
}
