package cache_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/cache"
)

// lingering is how long a load goes on in these tests that nobody waits for.
const lingering = 8 * time.Second

// TestLinger: who gives a load up and comes back joins it.
func TestLinger(t *testing.T) {
	// slow is a load that takes so long, and giveUp a caller who waits a second.
	slow := func(took time.Duration, n *int, ended *error) func(context.Context) (*secret, error) {
		return func(ctx context.Context) (*secret, error) {
			*n++
			select {
			case <-time.After(took):
				return &secret{n: *n}, nil
			case <-ctx.Done():
				*ended = ctx.Err()
				return nil, ctx.Err()
			}
		}
	}
	giveUp := func(t *testing.T, c *cache.Cache[string, *secret], load func(context.Context) (*secret, error)) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := c.Get(ctx, "k", limits, nil, load); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("the load ended before its caller gave up: %v", err)
		}
	}
	// run has f use a cache in a bubble.
	run := func(name string, f func(*testing.T, *cache.Cache[string, *secret])) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := cache.New(cache.Config[string, *secret]{
					Capacity: 4, Now: time.Now, Evict: func(s *secret) { s.wiped.Add(1) }, Linger: lingering,
				})
				f(t, c)
				c.Close()
			})
		})
	}
	run("what it brings is kept", func(t *testing.T, c *cache.Cache[string, *secret]) {
		var n int
		var ended error
		load := slow(5*time.Second, &n, &ended)
		giveUp(t, c, load)
		time.Sleep(5 * time.Second)
		if _, source := get(t, c, "k", load); source != cache.Fresh || n != 1 || ended != nil {
			t.Errorf("source %v after %d loads, of which one ended by %v", source, n, ended)
		}
	})
	run("who comes back meanwhile joins it, for as long as he likes", func(t *testing.T, c *cache.Cache[string, *secret]) {
		var n int
		var ended error
		load := slow(20*time.Second, &n, &ended)
		giveUp(t, c, load)
		time.Sleep(lingering - time.Second)
		if v, _ := get(t, c, "k", load); v.n != 1 || ended != nil {
			t.Errorf("he got what load %d brought; %v", v.n, ended)
		}
	})
	run("it is the last to give up who counts", func(t *testing.T, c *cache.Cache[string, *secret]) {
		var n int
		var ended error
		load := slow(20*time.Second, &n, &ended)
		giveUp(t, c, load)
		time.Sleep(lingering - 2*time.Second)
		giveUp(t, c, load)
		time.Sleep(lingering - time.Second)
		if v, _ := get(t, c, "k", load); v.n != 1 || ended != nil {
			t.Errorf("he got what load %d brought; %v", v.n, ended)
		}
	})
	run("it ends if nobody does", func(t *testing.T, c *cache.Cache[string, *secret]) {
		var n int
		var ended error
		load := slow(20*time.Second, &n, &ended)
		giveUp(t, c, load)
		time.Sleep(lingering + time.Millisecond)
		synctest.Wait()
		if ended == nil {
			t.Error("it goes on")
		}
		if v, _ := get(t, c, "k", load); v.n != 2 {
			t.Errorf("who comes later got what load %d brought", v.n)
		}
	})
	run("a purge is for it too", func(t *testing.T, c *cache.Cache[string, *secret]) {
		var n int
		var ended error
		load := slow(5*time.Second, &n, &ended)
		giveUp(t, c, load)
		c.Purge(func(string, *secret) bool { return true })
		time.Sleep(5 * time.Second)
		if v, source := get(t, c, "k", load); source != cache.Loaded || v.n != 2 {
			t.Errorf("from before the purge: load %d, source %v", v.n, source)
		}
	})
}
