package broker_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/cache"
)

// The run of an outage curve: every KMS hangs from outageFrom to outageTo.
const (
	outageFrom = 5 * time.Minute
	outageTo   = 35 * time.Minute
	curveEnd   = 45 * time.Minute
	curveStep  = 10 * time.Second
	// backWithin is how long after the end of the outage a call may still fail.
	backWithin = 5 * time.Second
)

// outcome is one call of the load.
type outcome struct {
	at  time.Duration // when it began
	key string
	err error
}

// tally is what came of calls: of those that began within each curveStep, and when
// the first and the last began that failed.
type tally struct {
	Steps       []struct{ Calls, Failed int }
	First, Last time.Duration
}

func tallyOf(calls []outcome) tally {
	t := tally{Steps: make([]struct{ Calls, Failed int }, curveEnd/curveStep)}
	for _, c := range calls {
		s := &t.Steps[c.at/curveStep]
		s.Calls++
		if c.err == nil {
			continue
		}
		if t.Last = c.at; t.First == 0 {
			t.First = c.at
		}
		s.Failed++
	}
	return t
}

// curve is a Broker under load, its keys and what it answered.
type curve struct {
	*threeKMS
	unwraps, generates []outcome
	// staleUntil is until when each key was said to be served, as the outage began,
	// and opened when a KMS had last opened an intermediate key by then.
	staleUntil map[string]time.Duration
	opened     []time.Duration
}

// runCurve puts an unwrap each every and a generate a second on a Broker with four
// keys, each as change makes it, through an outage. It must be called in a bubble.
func runCurve(t *testing.T, every time.Duration, change func(*broker.Key)) *curve {
	t.Helper()
	names := []string{"tikv", "tiflash", "backup", "logs"}
	c := &curve{staleUntil: map[string]time.Duration{}}
	c.threeKMS = newThreeKMS(t, func(f *fixture) {
		f.settings.Keys = nil
		for _, name := range names {
			k := newKey(name, "one/a", "two/a", "three/a")
			k.Limits = cache.Limits{TTL: time.Hour, RefreshAfter: 45 * time.Minute, MaxStale: 72 * time.Hour, NegativeTTL: 5 * time.Second}
			change(&k)
			k.Limits.RefreshAfter = k.Limits.TTL / 4 * 3
			f.settings.Keys = append(f.settings.Keys, k)
		}
	})
	began := time.Now()
	var mu sync.Mutex
	last := map[string]time.Duration{} // by the intermediate key
	noted := func(_ context.Context, plaintext []byte) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		last[string(plaintext)] = time.Since(began)
		return plaintext, nil
	}
	c.allOf(func(k *fakeKMS) {
		k.onUnwrap.Store(&noted)
		k.delay.Store(int64(10 * time.Millisecond))
	})
	type given struct {
		key            string
		plain, wrapped []byte
	}
	var keys []given
	for range 5 {
		for _, name := range names {
			g := given{key: name}
			g.plain, g.wrapped = c.generate(uidOps, name, nil)
			keys = append(keys, g)
		}
	}

	var calls sync.WaitGroup
	call := func(to *[]outcome, key string, do func() error) {
		at := time.Since(began)
		calls.Go(func() {
			err := do()
			mu.Lock()
			defer mu.Unlock()
			*to = append(*to, outcome{at, key, err})
		})
	}
	for i := 0; ; i++ {
		time.Sleep(time.Until(began.Add(time.Duration(i+1) * every)))
		switch now := time.Since(began); now {
		case outageFrom:
			mu.Lock()
			c.opened = slices.Sorted(maps.Values(last))
			mu.Unlock()
			infos, err := c.ListKeys(t.Context(), by(uidOps))
			if err != nil {
				t.Fatal(err)
			}
			for _, info := range infos {
				c.staleUntil[info.Name] = info.StaleUntil.Sub(began)
			}
			c.allOf((*fakeKMS).hang)
		case outageTo:
			c.allOf(func(k *fakeKMS) { k.delay.Store(int64(10 * time.Millisecond)) })
		case curveEnd:
			calls.Wait()
			inOrder := func(a, b outcome) int { return cmp.Compare(a.at, b.at) }
			slices.SortFunc(c.unwraps, inOrder)
			slices.SortFunc(c.generates, inOrder)
			return c
		}
		g := keys[i%len(keys)]
		call(&c.unwraps, g.key, func() error {
			u, err := c.unwrap(g.wrapped, nil)
			if err == nil && !bytes.Equal(u.Plaintext.Bytes(), g.plain) {
				t.Error("another data key")
			}
			return err
		})
		if second := int(time.Second / every); i%second == 0 {
			name := names[i/second%len(names)]
			call(&c.generates, name, func() error {
				_, err := c.Generate(t.Context(), by(uidOps), broker.GenerateRequest{KeyName: name})
				return err
			})
		}
	}
}

// wantServed holds that no call failed but those of a key that began from gone on,
// that those did, and that none did once the KMSs were back.
func wantServed(t *testing.T, calls []outcome, what string, gone func(key string) time.Duration) {
	t.Helper()
	for _, c := range calls {
		// A call that began shortly before the end may have waited for it.
		mayFail := c.at >= gone(c.key) && c.at < outageTo+backWithin
		mustFail := c.at >= gone(c.key) && c.at < outageTo-10*time.Second
		switch {
		case c.err != nil && !mayFail:
			t.Fatalf("%s with key %s at %v: %s", what, c.key, c.at, explain(c.err))
		case c.err == nil && mustFail:
			t.Fatalf("%s with key %s at %v is served; want that it is not from %v on", what, c.key, c.at, gone(c.key))
		case c.err != nil:
			wantReason(t, c.err, broker.BackendUnavailable)
		}
	}
}

// fewUses is a max_uses that lasts for some of the outage.
const fewUses = 300

// usedUp is when the first intermediate key of a key had made fewUses wrapped keys.
func (c *curve) usedUp(key string) time.Duration {
	left := fewUses - 5 // made before
	if key == "tikv" {
		left-- // by newThreeKMS
	}
	for _, g := range c.generates {
		if g.key != key {
			continue
		}
		if left == 0 {
			return g.at
		}
		left--
	}
	return curveEnd
}

func never(string) time.Duration { return curveEnd }

// TestOutageCurve: all KMSs hang for half an hour. What is served, and from when on
// not, is what the configuration says, to the call.
func TestOutageCurve(t *testing.T) {
	// With a path: what came of the calls, for `make outage`, and of more of them.
	path, every := os.Getenv("KEYBROKER_OUTAGE_CURVES"), 200*time.Millisecond
	if path != "" {
		every = 50 * time.Millisecond
	}
	curves := map[string]map[string]tally{}
	for _, c := range []struct {
		name   string
		change func(*broker.Key)
		check  func(*testing.T, *curve)
	}{
		{"defaults", func(*broker.Key) {}, func(t *testing.T, c *curve) {
			wantServed(t, c.unwraps, "unwrap", never)
			wantServed(t, c.generates, "generate", never)
		}},
		{"short cache", func(k *broker.Key) {
			k.Limits.TTL, k.Limits.MaxStale = 5*time.Minute, 10*time.Minute
		}, func(t *testing.T, c *curve) {
			told := slices.Sorted(maps.Values(c.staleUntil))
			for i := range c.opened {
				c.opened[i] += 10 * time.Minute
			}
			if !slices.Equal(told, c.opened) {
				t.Errorf("served until %v, it says; max_stale after the last answer of a KMS is %v", told, c.opened)
			}
			until := func(key string) time.Duration { return c.staleUntil[key] }
			wantServed(t, c.unwraps, "unwrap", until)
			wantServed(t, c.generates, "generate", until)
		}},
		{"few uses", func(k *broker.Key) { k.MaxUses = fewUses }, func(t *testing.T, c *curve) {
			wantServed(t, c.unwraps, "unwrap", never)
			wantServed(t, c.generates, "generate", c.usedUp)
			for _, k := range c.settings.Keys {
				if from := c.usedUp(k.Name); from < outageFrom || from >= outageTo {
					t.Errorf("key %s is used up at %v, which shows nothing", k.Name, from)
				}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := runCurve(t, every, c.change)
				c.check(t, got)
				curves[c.name] = map[string]tally{"unwrap": tallyOf(got.unwraps), "generate": tallyOf(got.generates)}
			})
		})
	}
	if path != "" && !t.Failed() {
		text, err := json.Marshal(curves)
		if err == nil {
			err = os.WriteFile(path, text, 0o644)
		}
		if err != nil {
			t.Error(err)
		}
	}
}
