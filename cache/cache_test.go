package cache_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/keybroker/keybroker/cache"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	errOutage  = errors.New("nobody answers")
	errRefused = errors.New("no")
	errOther   = errors.New("something else")
)

// secret is a value that can tell whether it was wiped, and how often.
type secret struct {
	n     int
	wiped atomic.Int32
}

// newCache returns a cache of secrets with room for capacity.
func newCache(t *testing.T, capacity int) *cache.Cache[string, *secret] {
	t.Helper()
	c := cache.New(cache.Config[string, *secret]{
		Capacity: capacity,
		Now:      time.Now,
		Evict:    func(s *secret) { s.wiped.Add(1) },
		Outage: func(err error, l cache.Limits) time.Duration {
			if errors.Is(err, errOutage) {
				return l.Until()
			}
			return 0
		},
		Refusal: func(err error) bool { return errors.Is(err, errRefused) },
	})
	t.Cleanup(c.Close)
	return c
}

// loader returns a load function that counts its calls in n and returns err, or
// a new secret whose number is the call's.
func loader(n *atomic.Int32, err error) func(context.Context) (*secret, error) {
	return func(context.Context) (*secret, error) {
		call := n.Add(1)
		if err != nil {
			return nil, err
		}
		return &secret{n: int(call)}, nil
	}
}

var limits = cache.Limits{TTL: time.Hour, MaxStale: 3 * time.Hour}

func get(t *testing.T, c *cache.Cache[string, *secret], key string, load func(context.Context) (*secret, error)) (*secret, cache.Source) {
	t.Helper()
	v, source, err := c.Get(t.Context(), key, limits, nil, load)
	if err != nil {
		t.Fatalf("Get(%q): %v", key, err)
	}
	if v.wiped.Load() != 0 {
		t.Fatalf("Get(%q) returned a wiped value", key)
	}
	return v, source
}

func TestServedByAge(t *testing.T) {
	for name, tc := range map[string]struct {
		age     time.Duration
		loadErr error
		source  cache.Source
		err     error
		loads   int32
	}{
		"fresh":                        {age: time.Hour - 1, loadErr: errOther, source: cache.Fresh, loads: 0},
		"at its ttl":                   {age: time.Hour, source: cache.Loaded, loads: 1},
		"past its ttl, outage":         {age: time.Hour, loadErr: errOutage, source: cache.Stale, loads: 1},
		"last moment of an outage":     {age: 3*time.Hour - 1, loadErr: errOutage, source: cache.Stale, loads: 1},
		"at its hard limit, outage":    {age: 3 * time.Hour, loadErr: errOutage, err: errOutage, loads: 1},
		"past its ttl, refused":        {age: time.Hour, loadErr: errRefused, err: errRefused, loads: 1},
		"past its ttl, other error":    {age: time.Hour, loadErr: errOther, err: errOther, loads: 1},
		"past its ttl, loads fine":     {age: 2 * time.Hour, source: cache.Loaded, loads: 1},
		"past everything, loads again": {age: 100 * time.Hour, source: cache.Loaded, loads: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCache(t, 4)
				var n atomic.Int32
				first, _ := get(t, c, "k", loader(new(atomic.Int32), nil))
				time.Sleep(tc.age)
				v, source, err := c.Get(t.Context(), "k", limits, nil, loader(&n, tc.loadErr))
				if !errors.Is(err, tc.err) {
					t.Fatalf("error %v, want %v", err, tc.err)
				}
				if n.Load() != tc.loads {
					t.Errorf("%d loads, want %d", n.Load(), tc.loads)
				}
				if err != nil {
					return
				}
				if source != tc.source {
					t.Errorf("source %v, want %v", source, tc.source)
				}
				if same := v == first; same != (tc.source != cache.Loaded) {
					t.Errorf("the first value again: %v", same)
				}
			})
		})
	}
}

func TestRefusalPurgesBeforeItIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, 4)
		v, _ := get(t, c, "k", loader(new(atomic.Int32), nil))
		time.Sleep(2 * time.Hour)
		if _, _, err := c.Get(t.Context(), "k", limits, nil, loader(new(atomic.Int32), errRefused)); !errors.Is(err, errRefused) {
			t.Fatalf("error %v", err)
		}
		if v.wiped.Load() != 1 {
			t.Error("the refused value was not wiped")
		}
		// An outage after the refusal must not bring it back.
		if _, _, err := c.Get(t.Context(), "k", limits, nil, loader(new(atomic.Int32), errOutage)); !errors.Is(err, errOutage) {
			t.Errorf("error %v, want the outage", err)
		}
	})
}

func TestPresentLimitsGovern(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, 4)
		get(t, c, "k", loader(new(atomic.Int32), nil))
		time.Sleep(time.Minute)
		var n atomic.Int32
		shorter := cache.Limits{TTL: time.Second}
		if _, source, err := c.Get(t.Context(), "k", shorter, nil, loader(&n, nil)); err != nil || source != cache.Loaded {
			t.Errorf("source %v, error %v: a reload that shortened the TTL was ignored", source, err)
		}
	})
}

func TestClockSetBack(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := cache.New(cache.Config[string, *secret]{
		Capacity: 1, Now: func() time.Time { return now }, Evict: func(s *secret) { s.wiped.Add(1) },
		Outage: func(_ error, l cache.Limits) time.Duration { return l.Until() },
	})
	defer c.Close()
	v, _ := get(t, c, "k", loader(new(atomic.Int32), nil))
	now = now.Add(-time.Minute)
	if _, _, err := c.Get(t.Context(), "k", limits, nil, loader(new(atomic.Int32), errOutage)); !errors.Is(err, errOutage) {
		t.Errorf("a value from the future was served: %v", err)
	}
	if c.Sweep() != 1 || v.wiped.Load() != 1 {
		t.Error("a value from the future was not swept")
	}
}

func TestThousandMissesAreOneLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, 4)
		var n, admitted atomic.Int32
		load := func(context.Context) (*secret, error) {
			time.Sleep(time.Second) // the KMS's round trip, by the fake clock
			return &secret{n: int(n.Add(1))}, nil
		}
		admit := func() error { admitted.Add(1); return nil }
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				if v, source, err := c.Get(t.Context(), "k", limits, admit, load); err != nil || v.n != 1 || source != cache.Loaded {
					t.Errorf("value %v, source %v, error %v", v, source, err)
				}
			})
		}
		wg.Wait()
		if n.Load() != 1 || admitted.Load() != 1 {
			t.Errorf("%d loads, %d admitted; want one of each", n.Load(), admitted.Load())
		}
	})
}

func TestAdmitRefuses(t *testing.T) {
	c := newCache(t, 4)
	var n atomic.Int32
	_, _, err := c.Get(t.Context(), "k", limits, func() error { return errOther }, loader(&n, nil))
	if !errors.Is(err, errOther) || n.Load() != 0 {
		t.Errorf("error %v after %d loads", err, n.Load())
	}
	get(t, c, "k", loader(&n, nil))
	if _, source, err := c.Get(t.Context(), "k", limits, func() error { return errOther }, nil); err != nil || source != cache.Fresh {
		t.Errorf("a hit was not admitted: %v", err)
	}
}

func TestGivingUpDisturbsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, 4)
		var ended atomic.Bool
		load := func(ctx context.Context) (*secret, error) {
			select {
			case <-ctx.Done():
				ended.Store(true)
				return nil, ctx.Err()
			case <-time.After(time.Minute):
				return &secret{}, nil
			}
		}
		impatient, giveUp := context.WithCancelCause(t.Context())
		gone := make(chan error, 1)
		go func() {
			_, _, err := c.Get(impatient, "k", limits, nil, load)
			gone <- err
		}()
		synctest.Wait()
		stays := make(chan error, 1)
		go func() {
			_, _, err := c.Get(t.Context(), "k", limits, nil, load)
			stays <- err
		}()
		synctest.Wait()

		giveUp(errOther)
		if err := <-gone; !errors.Is(err, errOther) {
			t.Errorf("who gave up got %v", err)
		}
		if err := <-stays; err != nil || ended.Load() {
			t.Errorf("who stayed got %v, load cancelled: %v", err, ended.Load())
		}
	})
}

func TestLastToGiveUpCancelsTheLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, 4)
		started := make(chan struct{})
		var late *secret
		load := func(ctx context.Context) (*secret, error) {
			close(started)
			<-ctx.Done()
			late = &secret{} // it answers although it was cancelled
			return late, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if _, _, err := c.Get(ctx, "k", limits, nil, load); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
		}()
		<-started
		cancel()
		<-done
		synctest.Wait()
		if late == nil || late.wiped.Load() != 1 {
			t.Error("the load was not cancelled, or its answer not wiped")
		}
		var n atomic.Int32
		if v, _ := get(t, c, "k", loader(&n, nil)); n.Load() != 1 || v == late {
			t.Error("the next caller joined a cancelled load")
		}
	})
}

func TestPurgeIsNotUndoneByALoadUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, 4)
		var loaded *secret
		got := make(chan error, 1)
		go func() {
			_, _, err := c.Get(t.Context(), "k", limits, nil, func(context.Context) (*secret, error) {
				time.Sleep(time.Second)
				loaded = &secret{}
				return loaded, nil
			})
			got <- err
		}()
		synctest.Wait()
		c.Purge(func(string, *secret) bool { return true })
		if err := <-got; !errors.Is(err, cache.ErrPurged) {
			t.Errorf("error %v, want ErrPurged", err)
		}
		if c.Len() != 0 || loaded.wiped.Load() != 1 {
			t.Error("what was loaded before the purge was kept, or not wiped")
		}
	})
}

func TestCapacityEvictsTheLeastRecentlyUsed(t *testing.T) {
	c := newCache(t, 2)
	a, _ := get(t, c, "a", loader(new(atomic.Int32), nil))
	b, _ := get(t, c, "b", loader(new(atomic.Int32), nil))
	get(t, c, "a", nil)
	get(t, c, "c", loader(new(atomic.Int32), nil))
	if a.wiped.Load() != 0 || b.wiped.Load() != 1 || c.Len() != 2 {
		t.Errorf("wiped: a %d, b %d; %d kept", a.wiped.Load(), b.wiped.Load(), c.Len())
	}
}

func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, 4)
		v, _ := get(t, c, "k", loader(new(atomic.Int32), nil))
		time.Sleep(3*time.Hour - 1)
		if n := c.Sweep(); n != 0 {
			t.Fatalf("%d swept too early", n)
		}
		time.Sleep(time.Nanosecond)
		if n := c.Sweep(); n != 1 || v.wiped.Load() != 1 || c.Len() != 0 {
			t.Errorf("%d swept, wiped %d times", n, v.wiped.Load())
		}
	})
}

func TestPutReplaces(t *testing.T) {
	c := newCache(t, 4)
	old, _ := get(t, c, "k", loader(new(atomic.Int32), nil))
	made := &secret{}
	c.Put("k", made, limits)
	if v, _ := get(t, c, "k", nil); v != made || old.wiped.Load() != 1 {
		t.Error("Put did not replace and wipe")
	}
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, 4)
		v, _ := get(t, c, "k", loader(new(atomic.Int32), nil))
		under := make(chan error, 1)
		go func() {
			_, _, err := c.Get(t.Context(), "slow", limits, nil, func(ctx context.Context) (*secret, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			})
			under <- err
		}()
		synctest.Wait()
		c.Close()
		c.Close()
		if v.wiped.Load() != 1 {
			t.Error("Close did not wipe")
		}
		if err := <-under; err == nil {
			t.Error("a load outlived Close")
		}
		if _, _, err := c.Get(t.Context(), "k", limits, nil, loader(new(atomic.Int32), nil)); !errors.Is(err, cache.ErrClosed) {
			t.Errorf("Get after Close: %v", err)
		}
		late := &secret{}
		c.Put("k", late, limits)
		if late.wiped.Load() != 1 {
			t.Error("Put after Close kept the value")
		}
	})
}

// TestEveryValueIsWipedOnce runs everything at once and counts.
func TestEveryValueIsWipedOnce(t *testing.T) {
	c := newCache(t, 8)
	var mu sync.Mutex
	var all []*secret
	load := func(_ context.Context) (*secret, error) {
		s := &secret{}
		mu.Lock()
		all = append(all, s)
		mu.Unlock()
		return s, nil
	}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 400 {
				ctx, cancel := context.WithCancel(t.Context())
				if j%7 == 0 {
					cancel()
				}
				_, _, err := c.Get(ctx, fmt.Sprint((i+j)%20), cache.Limits{TTL: time.Duration(j%3) * time.Hour}, nil, load)
				if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, cache.ErrPurged) {
					t.Errorf("Get: %v", err)
				}
				cancel()
				if j%50 == 0 {
					c.Purge(func(k string, _ *secret) bool { return len(k) == 1 })
				}
			}
		})
	}
	wg.Wait()
	c.Close()
	for i, s := range all {
		if n := s.wiped.Load(); n != 1 {
			t.Fatalf("value %d was wiped %d times", i, n)
		}
	}
	if len(all) == 0 {
		t.Fatal("nothing was loaded")
	}
}

func BenchmarkHit(b *testing.B) {
	c := cache.New(cache.Config[string, *secret]{Capacity: 4, Now: time.Now, Evict: func(*secret) {}})
	defer c.Close()
	c.Put("k", &secret{}, limits)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, _, err := c.Get(b.Context(), "k", limits, nil, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}
