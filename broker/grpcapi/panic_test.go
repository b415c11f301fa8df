package grpcapi_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/keybroker/keybroker/broker"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// TestPanic: a defect that one caller meets is answered, recorded and logged, and
// the service goes on for the others. The observer panics at the end of a call,
// where the broker itself guards nothing.
func TestPanic(t *testing.T) {
	for _, tc := range []struct {
		name   string
		panics int32
	}{
		{"once", 1},
		{"also while that is recorded", 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var log lockedBuffer
			o := &observer{}
			f := newFixture(t, func(f *fixture) {
				f.options.Observer = o
				f.config.Logger = slog.New(slog.NewTextHandler(&log, nil))
			})
			f.generate("tikv", nil)

			o.panics.Store(tc.panics)
			wantReason(t, f.tryGenerate("tikv"), broker.Internal)
			if r := f.last(); r.Event != "denied-at-the-door" || r.Reason != string(broker.Internal) || r.Client.Method != "GenerateDataKey" {
				t.Errorf("record %+v", r)
			}
			if text := log.String(); strings.Count(text, "panic in a call") != int(tc.panics) || !strings.Contains(text, "operation.go") {
				t.Errorf("the log has no panic with its stack: %q", text)
			}

			o.panics.Store(tc.panics)
			stream, err := f.admin.TailAudit(t.Context(), &keybrokerv1.TailAuditRequest{})
			if err == nil {
				_, err = stream.Recv()
			}
			wantReason(t, err, broker.Internal)
			f.generate("tikv", nil)
		})
	}
}

// lockedBuffer is written and read by different goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
