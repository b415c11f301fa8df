package cache_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/cache"
)

// copied is a copy of a cache, as it is told of it.
type copied struct {
	mu sync.Mutex
	of map[string]*secret
	at map[string]time.Time
	// closing: what is wiped from now on may stay in the copy.
	closing bool
}

func (c *copied) keys() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.of))
}

func (c *copied) closes() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
}

func (c *copied) want(t *testing.T, what string, keys ...string) {
	t.Helper()
	if got := c.keys(); !slices.Equal(got, keys) {
		t.Errorf("%s: the copy has %q, want %q", what, got, keys)
	}
}

// newCopied returns a cache and its copy. What is wiped must have left the copy
// before, and what the copy has must not be wiped.
func newCopied(t *testing.T, capacity int) (*cache.Cache[string, *secret], *copied) {
	t.Helper()
	to := &copied{of: map[string]*secret{}, at: map[string]time.Time{}}
	c := cache.New(cache.Config[string, *secret]{
		Capacity: capacity, Now: time.Now,
		Evict: func(s *secret) {
			to.mu.Lock()
			defer to.mu.Unlock()
			for key, has := range to.of {
				if has == s && !to.closing {
					t.Errorf("%s is wiped, and the copy has it still", key)
				}
			}
			s.wiped.Add(1)
		},
		Kept: func(key string, s *secret, at time.Time) {
			to.mu.Lock()
			defer to.mu.Unlock()
			if s.wiped.Load() != 0 {
				t.Errorf("the copy gets %s wiped", key)
			}
			to.of[key], to.at[key] = s, at
		},
		Left: func(key string) {
			to.mu.Lock()
			defer to.mu.Unlock()
			delete(to.of, key)
		},
		Outage: func(err error, l cache.Limits) time.Duration {
			if errors.Is(err, errOutage) {
				return l.Until()
			}
			return 0
		},
		Refusal: func(err error) bool { return errors.Is(err, errRefused) },
	})
	t.Cleanup(func() {
		to.closes()
		c.Close()
	})
	return c, to
}

func TestCopyFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, to := newCopied(t, 3)
		fine := loader(new(atomic.Int32), nil)
		get(t, c, "a", fine)
		get(t, c, "b", fine)
		c.Put("c", &secret{}, limits)
		to.want(t, "loaded and put", "a", "b", "c")
		get(t, c, "d", fine)
		to.want(t, "beyond capacity", "b", "c", "d")
		c.Purge(func(key string, _ *secret) bool { return key == "b" })
		to.want(t, "purged", "c", "d")
		c.Drop("c")
		to.want(t, "dropped", "d")

		time.Sleep(2 * time.Hour)
		if _, source, err := c.Get(t.Context(), "d", limits, nil, loader(new(atomic.Int32), errOutage)); source != cache.Stale || err != nil {
			t.Fatalf("source %v, error %v", source, err)
		}
		to.want(t, "in an outage", "d")
		time.Sleep(2 * time.Minute) // who asks within a minute does not wait
		began := time.Now()
		get(t, c, "d", fine)
		if to.want(t, "loaded again", "d"); !to.at["d"].Equal(began) {
			t.Errorf("loaded at %v, want %v", to.at["d"], began)
		}
		time.Sleep(2 * time.Hour)
		if _, _, err := c.Get(t.Context(), "d", limits, nil, loader(new(atomic.Int32), errRefused)); !errors.Is(err, errRefused) {
			t.Fatalf("error %v", err)
		}
		to.want(t, "refused")

		get(t, c, "e", fine)
		time.Sleep(3 * time.Hour)
		c.Sweep()
		to.want(t, "swept")
	})
}

// What a purge overtakes never gets into the copy.
func TestCopyWithoutWhatWasPurgedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, to := newCopied(t, 3)
		go func() {
			_, _, err := c.Get(context.Background(), "a", limits, nil, func(context.Context) (*secret, error) {
				time.Sleep(time.Second)
				return &secret{}, nil
			})
			if !errors.Is(err, cache.ErrPurged) {
				t.Errorf("error %v", err)
			}
		}()
		synctest.Wait()
		c.Purge(func(string, *secret) bool { return true })
		time.Sleep(2 * time.Second)
		to.want(t, "loaded after the purge")
	})
}

// The copy outlives the cache, but for what is refused while it is being closed.
func TestCopyOutlivesTheCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &copied{of: map[string]*secret{}, at: map[string]time.Time{}}
		c := cache.New(cache.Config[string, *secret]{
			Capacity: 3, Now: time.Now, Evict: func(*secret) {},
			Kept:    func(key string, s *secret, _ time.Time) { to.of[key] = s },
			Left:    func(key string) { delete(to.of, key) },
			Refusal: func(err error) bool { return errors.Is(err, errRefused) },
		})
		fine := loader(new(atomic.Int32), nil)
		get(t, c, "a", fine)
		get(t, c, "b", fine)
		time.Sleep(time.Hour)
		go func() {
			_, _, err := c.Get(context.Background(), "b", limits, nil, func(ctx context.Context) (*secret, error) {
				<-ctx.Done()
				return nil, errRefused
			})
			if !errors.Is(err, errRefused) {
				t.Errorf("error %v", err)
			}
		}()
		synctest.Wait()
		c.Close()
		to.want(t, "closed", "a")
		c.Drop("a")
		to.want(t, "dropped after that")
	})
}

func TestRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, to := newCopied(t, 3)
		get(t, c, "there", loader(new(atomic.Int32), nil))
		for name, tc := range map[string]struct {
			key  string
			age  time.Duration
			kept bool
		}{
			"fresh":                     {"fresh", time.Hour - 1, true},
			"stale":                     {"stale", 3*time.Hour - 1, true},
			"past all its limits":       {"old", 3 * time.Hour, false},
			"from the future":           {"future", -1, false},
			"one that there is already": {"there", time.Minute, false},
		} {
			v := &secret{}
			if got := c.Restore(tc.key, v, time.Now().Add(-tc.age), limits); got != tc.kept || (v.wiped.Load() == 0) != tc.kept {
				t.Errorf("%s: kept %v, wiped %d times", name, got, v.wiped.Load())
			}
		}
		if v := (&secret{}); c.Restore("late", v, time.Now(), limits) || v.wiped.Load() != 1 {
			t.Error("there was room for a fourth of three")
		}
		to.want(t, "restored", "fresh", "stale", "there")
		if age := time.Since(to.at["stale"]); age != 3*time.Hour-1 {
			t.Errorf("in the copy it is %v old", age)
		}

		if _, source := get(t, c, "fresh", loader(new(atomic.Int32), errOther)); source != cache.Fresh {
			t.Errorf("source %v, want fresh", source)
		}
		if _, source, err := c.Get(t.Context(), "stale", limits, nil, loader(new(atomic.Int32), errOutage)); source != cache.Stale || err != nil {
			t.Errorf("source %v, error %v, want stale", source, err)
		}
		time.Sleep(time.Nanosecond) // no younger for the restart
		if _, _, err := c.Get(t.Context(), "stale", limits, nil, loader(new(atomic.Int32), errOutage)); !errors.Is(err, errOutage) {
			t.Errorf("at its hard limit: %v", err)
		}
		if _, source := get(t, c, "fresh", loader(new(atomic.Int32), nil)); source != cache.Loaded {
			t.Errorf("source %v at its ttl, want loaded", source)
		}
		to.closes()
		c.Close()
		if v := (&secret{}); c.Restore("x", v, time.Now(), limits) || v.wiped.Load() != 1 {
			t.Error("kept after Close")
		}
	})
}
