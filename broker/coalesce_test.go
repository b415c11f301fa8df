package broker_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
)

// Callers who miss the same intermediate key at the same time share one call of
// the KMS, and those who give up take nothing from the others.
func TestThousandMissesAreOneBackendCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		_, wrapped := f.generate(uidTiKV, "tikv", nil)
		f.purgeAll()
		before := f.one.unwraps.Load()
		release := make(chan struct{})
		wait := func(ctx context.Context, ik []byte) ([]byte, error) {
			select {
			case <-release:
				return ik, nil
			case <-ctx.Done():
				return nil, backends.Errorf(backends.Unavailable, "unwrap", "", "%w", ctx.Err())
			}
		}
		f.one.onUnwrap.Store(&wait)

		impatient, giveUp := context.WithCancel(t.Context())
		defer giveUp()
		var wg sync.WaitGroup
		var failed, gaveUp atomic.Int32
		for i := range 1000 {
			ctx := t.Context()
			if i%10 == 0 {
				ctx = impatient
			}
			wg.Go(func() {
				_, err := f.Unwrap(ctx, by(uidTiKV), broker.UnwrapRequest{WrappedKey: wrapped})
				switch {
				case err != nil && ctx == impatient:
					gaveUp.Add(1)
				case err != nil:
					failed.Add(1)
				}
			})
			if i == 0 {
				synctest.Wait() // one who gives up begins the call
			}
		}
		synctest.Wait() // until all of them wait
		giveUp()
		synctest.Wait()
		if n := gaveUp.Load(); n != 100 {
			t.Errorf("%d callers were let go when they gave up, want 100", n)
		}
		close(release)
		wg.Wait()
		if n := f.one.unwraps.Load() - before; n != 1 {
			t.Errorf("%d backend calls, want 1", n)
		}
		if n := failed.Load(); n != 0 {
			t.Errorf("%d callers failed because others gave up", n)
		}
	})
}
