package broker_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/broker"
)

func TestDrill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t)
		var reports []broker.DrillReport
		calls := func() int32 { return f.one.unwraps.Load() + f.one.wraps.Load() + f.one.checks.Load() }
		asked := calls()
		began := time.Now()
		err := f.Drill(t.Context(), by(uidOps), "one", 30*time.Second, func(r broker.DrillReport) error {
			reports = append(reports, r)
			if len(reports) == 1 {
				if err := f.Drill(t.Context(), by(uidOps), "two", time.Minute, nil); err == nil {
					t.Error("two drills at a time")
				}
			}
			f.opens()                                  // by two, without a wait
			_ = f.tryGenerate("tikv", 32)(by(uidTiKV)) // which needs all three
			return nil
		})
		if err != nil {
			t.Fatal(explain(err))
		}
		if took := time.Since(began); took != 30*time.Second {
			t.Errorf("it took %v", took)
		}
		if now := calls(); now != asked {
			t.Errorf("the backend was asked %d times", now-asked)
		}
		last := reports[len(reports)-1]
		if last.Left != 0 || len(last.Keys) != 1 || !last.Keys[0].Depends || last.Keys[0].State != broker.KeyDegraded {
			t.Errorf("the last report: %+v", last)
		}
		if k := last.Keys[0]; k.Failed != 30 || k.Backend != 30 || k.Fresh != 0 {
			t.Errorf("calls: %+v", k)
		}
		f.opens()
		time.Sleep(2 * time.Second)
		if calls() == asked {
			t.Error("it is not asked again after the drill")
		}
		text := strings.Join(f.audit.lines(t), "\n")
		for _, part := range []string{"begins, for 30s", `"detail":"ends"`, `"event":"drill"`} {
			if !strings.Contains(text, part) {
				t.Errorf("the log lacks %s", part)
			}
		}
	})
}

func TestDrillEndsWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		began := time.Now()
		if err := f.Drill(ctx, by(uidOps), "one", time.Hour, func(broker.DrillReport) error { return nil }); err != nil {
			t.Fatal(explain(err))
		}
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("it took %v", took)
		}
		f.opens()
		if last := f.audit.last(t); !strings.Contains(last, `"backend":"one"`) {
			t.Errorf("the backend is still treated as gone: %s", last)
		}
	})
}

func TestDrillIsRefused(t *testing.T) {
	f := newFixture(t)
	none := func(broker.DrillReport) error { t.Error("it began"); return nil }
	for name, test := range map[string]struct {
		uid     uint32
		backend string
		d       time.Duration
		want    broker.Reason
	}{
		"no right":        {uidTiKV, "one", time.Minute, broker.AccessDenied},
		"no such backend": {uidOps, "three", time.Minute, broker.InvalidArgument},
		"too short":       {uidOps, "one", time.Millisecond, broker.InvalidArgument},
		"too long":        {uidOps, "one", 2 * time.Hour, broker.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			wantReason(t, f.Drill(t.Context(), by(test.uid), test.backend, test.d, none), test.want)
		})
	}
	f.audit.end(t)
	wantReason(t, f.Drill(t.Context(), by(uidOps), "one", time.Minute, none), broker.AuditUnavailable)
}
