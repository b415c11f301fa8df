package cache_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/cache"
)

// ahead are limits with a refresh at three quarters of the ttl.
var ahead = cache.Limits{TTL: time.Hour, RefreshAfter: 45 * time.Minute, MaxStale: 3 * time.Hour}

// source is what its loads come from: a KMS that a test can take away.
type source struct {
	loads atomic.Int32
	fail  atomic.Pointer[error]
	delay time.Duration
}

func (s *source) set(err error) { s.fail.Store(&err) }

func (s *source) load(ctx context.Context) (*secret, error) {
	n := s.loads.Add(1)
	select {
	case <-time.After(s.delay + 1):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if err := s.fail.Load(); err != nil && *err != nil {
		return nil, *err
	}
	return &secret{n: int(n)}, nil
}

// refreshing returns a cache that is told every second to refresh, as its owner
// does.
func refreshing(t *testing.T, change func(*cache.Config[string, *secret])) *cache.Cache[string, *secret] {
	t.Helper()
	cfg := cache.Config[string, *secret]{
		Capacity: 4,
		Now:      time.Now,
		Evict:    func(s *secret) { s.wiped.Add(1) },
		Outage: func(err error, l cache.Limits) time.Duration {
			if errors.Is(err, errOutage) {
				return l.Until()
			}
			return 0
		},
		Refusal:  func(err error) bool { return errors.Is(err, errRefused) },
		Definite: func(err error) bool { return errors.Is(err, errRefused) },
	}
	if change != nil {
		change(&cfg)
	}
	c := cache.New(cfg)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Second):
				c.Refresh()
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done; c.Close() })
	return c
}

func TestRefreshAhead(t *testing.T) {
	use := func(t *testing.T, c *cache.Cache[string, *secret], s *source) (*secret, cache.Source, error) {
		t.Helper()
		return c.Get(t.Context(), "k", ahead, nil, s.load)
	}
	t.Run("what is used is never waited for", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, s := refreshing(t, nil), &source{delay: 10 * time.Second}
			_, _, _ = use(t, c, s)
			for range 24 * 6 {
				time.Sleep(10 * time.Minute)
				began := time.Now()
				v, from, err := use(t, c, s)
				if err != nil || from != cache.Fresh || v.wiped.Load() != 0 {
					t.Fatalf("source %v, error %v", from, err)
				}
				if time.Since(began) != 0 {
					t.Fatal("a caller waited")
				}
			}
			if n := s.loads.Load(); n < 24 || n > 36 {
				t.Errorf("%d loads in a day, want one each three quarters of an hour", n)
			}
		})
	})
	t.Run("also if nobody asks after that", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, s := refreshing(t, nil), &source{}
			_, _, _ = use(t, c, s)
			time.Sleep(time.Minute)
			_, _, _ = use(t, c, s)
			time.Sleep(75 * time.Minute)
			if _, from, err := use(t, c, s); err != nil || from != cache.Fresh || s.loads.Load() != 2 {
				t.Errorf("source %v, error %v, %d loads", from, err, s.loads.Load())
			}
		})
	})
	t.Run("what nobody uses is not refreshed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, s := refreshing(t, nil), &source{}
			_, _, _ = use(t, c, s) // the load itself is no use of what it brought
			time.Sleep(10 * time.Hour)
			if n := s.loads.Load(); n != 1 {
				t.Errorf("%d loads", n)
			}
		})
	})
	t.Run("a use by the owner counts", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, s := refreshing(t, nil), &source{}
			c.Put("k", &secret{n: 7}, ahead)
			c.Use("k", ahead, s.load)
			time.Sleep(46 * time.Minute)
			if v, from, err := use(t, c, s); err != nil || from != cache.Fresh || v.n != 1 {
				t.Errorf("%v, source %v, error %v", v, from, err)
			}
		})
	})
	t.Run("up to a tenth earlier, by chance", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := refreshing(t, func(cfg *cache.Config[string, *secret]) { cfg.Jitter = func() float64 { return 1 } })
			s := &source{}
			_, _, _ = use(t, c, s)
			_, _, _ = use(t, c, s)
			time.Sleep(40*time.Minute + 25*time.Second)
			if n := s.loads.Load(); n != 1 {
				t.Fatalf("%d loads", n)
			}
			time.Sleep(10 * time.Second) // past 40 minutes and a half
			if n := s.loads.Load(); n != 2 {
				t.Errorf("%d loads, want 2", n)
			}
		})
	})
	t.Run("a refusal in the background purges at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, s := refreshing(t, nil), &source{}
			v, _, _ := use(t, c, s)
			_, _, _ = use(t, c, s)
			s.set(errRefused)
			time.Sleep(46 * time.Minute)
			synctest.Wait()
			if v.wiped.Load() != 1 || c.Len() != 0 {
				t.Error("what was refused is kept until somebody asks")
			}
			if _, from, err := use(t, c, s); !errors.Is(err, errRefused) || from == cache.Fresh {
				t.Errorf("source %v, error %v", from, err)
			}
		})
	})
	t.Run("an outage is found in the background, and carried without waiting", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, s := refreshing(t, nil), &source{}
			_, _, _ = use(t, c, s)
			_, _, _ = use(t, c, s)
			s.set(errOutage)
			s.delay = 3 * time.Second // its time-out
			for waited := time.Duration(0); waited < 3*time.Hour; waited += time.Minute {
				began := time.Now()
				_, from, err := use(t, c, s)
				if err != nil {
					t.Fatalf("after %v: %v", waited, err)
				}
				if want := cache.Stale; waited >= time.Hour && from != want {
					t.Fatalf("after %v: source %v, want %v", waited, from, want)
				}
				if took := time.Since(began); took != 0 {
					t.Fatalf("after %v a caller waited %v for a KMS that is known to be away", waited, took)
				}
				time.Sleep(time.Minute - time.Since(began))
			}
			if _, from, err := use(t, c, s); !errors.Is(err, errOutage) {
				t.Errorf("past its hard limit: source %v, error %v", from, err)
			}
			// It comes back by itself.
			s.set(nil)
			if _, from, err := use(t, c, s); err != nil || from != cache.Loaded {
				t.Errorf("source %v, error %v", from, err)
			}
		})
	})
	t.Run("the outage's end is found within seconds", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, s := refreshing(t, nil), &source{}
			_, _, _ = use(t, c, s)
			_, _, _ = use(t, c, s)
			s.set(errOutage)
			time.Sleep(2 * time.Hour)
			if _, from, _ := use(t, c, s); from != cache.Stale {
				t.Fatalf("source %v", from)
			}
			s.set(nil)
			time.Sleep(7 * time.Second)
			if _, from, err := use(t, c, s); err != nil || from != cache.Fresh {
				t.Errorf("source %v, error %v", from, err)
			}
		})
	})
	t.Run("one at a time, and none after Close", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, s := refreshing(t, nil), &source{delay: time.Hour}
			c.Put("k", &secret{}, ahead)
			c.Use("k", ahead, s.load)
			time.Sleep(50 * time.Minute)
			for range 100 {
				_, _, _ = use(t, c, s)
			}
			if n := s.loads.Load(); n != 1 {
				t.Errorf("%d loads at a time", n)
			}
			c.Close() // ends it
			c.Refresh()
		})
	})
}

// TestOutageOfTheOwnerCounts: how long a value is served after a failure is the
// owner's to say, failure by failure.
func TestOutageOfTheOwnerCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		errLogin := errors.New("the broker's own credential is refused")
		c := refreshing(t, func(cfg *cache.Config[string, *secret]) {
			cfg.Outage = func(err error, l cache.Limits) time.Duration {
				if errors.Is(err, errLogin) {
					return min(2*l.TTL, l.Until())
				}
				return 0
			}
		})
		s := &source{}
		_, _, _ = c.Get(t.Context(), "k", ahead, nil, s.load)
		s.set(errLogin)
		time.Sleep(2*time.Hour - time.Minute)
		if _, from, err := c.Get(t.Context(), "k", ahead, nil, s.load); err != nil || from != cache.Stale {
			t.Errorf("source %v, error %v", from, err)
		}
		time.Sleep(time.Minute)
		if _, _, err := c.Get(t.Context(), "k", ahead, nil, s.load); !errors.Is(err, errLogin) {
			t.Errorf("error %v after one more ttl", err)
		}
	})
}

func TestRefusalsAreRemembered(t *testing.T) {
	limits := cache.Limits{TTL: time.Hour, MaxStale: time.Hour, NegativeTTL: 5 * time.Second}
	t.Run("for a while", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, s := refreshing(t, nil), &source{}
			s.set(errRefused)
			get := func() (cache.Source, error) {
				_, from, err := c.Get(t.Context(), "k", limits, nil, s.load)
				return from, err
			}
			if from, err := get(); !errors.Is(err, errRefused) || from != cache.Loaded {
				t.Fatalf("source %v, error %v", from, err)
			}
			s.set(nil)
			for range 10 {
				if from, err := get(); !errors.Is(err, errRefused) || from != cache.Negative {
					t.Fatalf("source %v, error %v", from, err)
				}
			}
			if n := s.loads.Load(); n != 1 {
				t.Errorf("%d loads", n)
			}
			time.Sleep(5 * time.Second)
			if from, err := get(); err != nil || from != cache.Loaded {
				t.Errorf("source %v, error %v", from, err)
			}
		})
	})
	for name, err := range map[string]error{"an outage": errOutage, "anything else": errOther} {
		t.Run(name+" is not", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, s := refreshing(t, nil), &source{}
				s.set(err)
				for range 3 {
					if _, from, err := c.Get(t.Context(), "k", limits, nil, s.load); err == nil || from == cache.Negative {
						t.Errorf("source %v, error %v", from, err)
					}
				}
				if n := s.loads.Load(); n != 3 {
					t.Errorf("%d loads", n)
				}
			})
		})
	}
	t.Run("forgotten by a purge", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, s := refreshing(t, nil), &source{}
			s.set(errRefused)
			_, _, _ = c.Get(t.Context(), "k", limits, nil, s.load)
			s.set(nil)
			c.Purge(func(string, *secret) bool { return false })
			if _, from, err := c.Get(t.Context(), "k", limits, nil, s.load); err != nil {
				t.Errorf("source %v, error %v", from, err)
			}
		})
	})
	t.Run("not more of them than there is room for", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, s := refreshing(t, nil), &source{}
			s.set(errRefused)
			for _, key := range []string{"a", "b", "c", "d", "e"} { // room is for 4
				_, _, _ = c.Get(t.Context(), key, limits, nil, s.load)
			}
			for _, want := range []struct {
				key  string
				from cache.Source
			}{{"b", cache.Negative}, {"e", cache.Negative}, {"a", cache.Loaded}} { // the last one takes b's place
				if _, from, _ := c.Get(t.Context(), want.key, limits, nil, s.load); from != want.from {
					t.Errorf("%s: source %v, want %v", want.key, from, want.from)
				}
			}
		})
	})
	t.Run("not if the limits say so", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, s := refreshing(t, nil), &source{}
			s.set(errRefused)
			never := cache.Limits{TTL: time.Hour}
			for range 2 {
				_, _, _ = c.Get(t.Context(), "k", never, nil, s.load)
			}
			if n := s.loads.Load(); n != 2 {
				t.Errorf("%d loads", n)
			}
		})
	})
}
