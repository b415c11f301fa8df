package broker_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/envelope"
	"github.com/keybroker/keybroker/cache"
	"github.com/keybroker/keybroker/internal/handover"
	"github.com/keybroker/keybroker/internal/secret"
)

func newHandover(t *testing.T) *handover.Memory {
	t.Helper()
	m, err := handover.New(64)
	if errors.Is(err, secret.ErrSwap) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// managed is another descriptor of m, as the service manager keeps it.
func managed(t *testing.T, m *handover.Memory) *os.File {
	t.Helper()
	fd, err := unix.FcntlInt(m.File().Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "handover")
}

// snapshot is what would be found in m if the process were killed now.
func snapshot(t *testing.T, m *handover.Memory) *handover.Received {
	t.Helper()
	is, err := secret.OpenShared(managed(t, m), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer is.Close()
	left, err := secret.NewShared(len(is.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	copy(left.Bytes(), is.Bytes())
	defer left.Close()
	fd, err := unix.FcntlInt(left.File().Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	r := handover.Take([]*os.File{os.NewFile(uintptr(fd), "snapshot")})
	t.Cleanup(func() { r.Close() })
	return r
}

// parts are the identities of the intermediate keys in m.
func parts(t *testing.T, m *handover.Memory) map[[32]byte]bool {
	t.Helper()
	r := handover.Take([]*os.File{managed(t, m)})
	defer r.Close()
	found := map[[32]byte]bool{}
	r.Each(func(e handover.Entry) {
		p, err := envelope.ParseIKPart([]byte(e.Part))
		if err != nil {
			t.Error(err)
			return
		}
		found[p.ID()] = true
	})
	return found
}

// mirrored is a fixture in a bubble whose cache outlives it.
func mirrored(t *testing.T, change ...func(*fixture)) *fixture {
	t.Helper()
	return newFixture(t, append([]func(*fixture){func(f *fixture) {
		f.clock = time.Now
		f.bootID = "boot 1"
		f.memory = newHandover(t)
		f.settings.Keys[0].Context = pairs(t, map[string]string{"cluster": "prod-1"})
	}}, change...)...)
}

// killed is the fixture that comes after f, which is killed in this moment.
func (f *fixture) killed(change ...func(*fixture)) *fixture {
	f.t.Helper()
	return mirrored(f.t, append([]func(*fixture){func(next *fixture) {
		next.one, next.two, next.settings = f.one, f.two, f.settings
		next.received = snapshot(f.t, f.memory)
	}}, change...)...)
}

// started is what the audit says of the start.
func (f *fixture) started() string {
	f.t.Helper()
	for _, r := range f.audit.since(f.t, 0) {
		if r.Event == "start" {
			return r.Detail
		}
	}
	f.t.Fatal("no start record")
	return ""
}

func (f *fixture) wantStarted(want string) {
	f.t.Helper()
	if got := f.started(); !strings.HasSuffix(got, "; "+want) {
		f.t.Errorf("the start record says %q, want %q", got, want)
	}
}

const restoredOne = "intermediate keys of the former process: 1 restored, 0 dropped"

// A key is served after a restart as long as it would have been without.
func TestRestartInAnOutage(t *testing.T) {
	for name, tc := range map[string]struct {
		before, down, after time.Duration
		source              cache.Source
		gone                bool
		started             string
	}{
		"within its ttl":                {time.Minute, time.Second, 58 * time.Minute, cache.Fresh, false, restoredOne},
		"killed within, asked past":     {time.Minute, time.Second, time.Hour, cache.Stale, false, restoredOne},
		"down while its ttl passed":     {time.Minute, time.Hour, 0, cache.Stale, false, restoredOne},
		"past its ttl":                  {2 * time.Hour, 0, 59 * time.Minute, cache.Stale, false, restoredOne},
		"killed before, asked at limit": {time.Minute, time.Second, 3*time.Hour - time.Minute - time.Second, 0, true, restoredOne},
		"down while its limit passed": {
			time.Minute, 3*time.Hour - time.Minute, 0, 0, true, "intermediate keys of the former process: 0 restored, 1 dropped (1 expired)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := mirrored(t)
				dek, wrapped := f.generate(uidTiKV, "tikv", nil)
				f.one.down(backends.Unavailable)
				time.Sleep(tc.before)
				next := f.killed(func(*fixture) { time.Sleep(tc.down) })
				next.wantStarted(tc.started)
				time.Sleep(tc.after)
				u, err := next.unwrap(wrapped, nil)
				if tc.gone {
					wantReason(t, err, broker.BackendUnavailable)
					return
				}
				if err != nil {
					t.Fatal(explain(err))
				}
				if u.Source != tc.source || !bytes.Equal(u.Plaintext.Bytes(), dek) {
					t.Errorf("source %v, want %v; or another data key", u.Source, tc.source)
				}
			})
		})
	}
}

// It goes on over many restarts, no younger for any of them.
func TestManyRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := mirrored(t)
		_, wrapped := f.generate(uidTiKV, "tikv", nil)
		f.one.down(backends.Unavailable)
		for range 5 {
			time.Sleep(30 * time.Minute)
			f = f.killed()
			if _, err := f.unwrap(wrapped, nil); err != nil {
				t.Fatal(explain(err))
			}
		}
		time.Sleep(30 * time.Minute)
		_, err := f.unwrap(wrapped, nil)
		wantReason(t, err, broker.BackendUnavailable)
	})
}

// A master key that was refused while the broker was down is found at once, not when
// the ttl of what it had opened has passed.
func TestRefusedWhileDown(t *testing.T) {
	for name, tc := range map[string]struct {
		refuse func(*fixture)
		change func(*fixture)
		reason broker.Reason // of unwrapping; empty: it is served
	}{
		"the master key": {
			refuse: func(f *fixture) {
				f.one.fail.Store(backends.Errorf(backends.Disabled, "unwrap", "a", "as the test asked"))
			},
			reason: broker.KEKDisabled,
		},
		"the version that it is wrapped with": {
			refuse: func(f *fixture) { f.one.rotate("2"); f.one.disabled.Store("1", true) },
			reason: broker.KEKDisabled,
		},
		"another version": {refuse: func(f *fixture) { f.one.rotate("2"); f.one.disabled.Store("0", true) }},
		"nothing":         {refuse: func(*fixture) {}},
		"to wrap, not to unwrap": {refuse: func(f *fixture) {
			f.one.failWrap.Store(backends.Errorf(backends.Denied, "wrap", "a", "as the test asked"))
		}},
		"by another KMS under its name": {
			refuse: func(*fixture) {},
			change: func(f *fixture) {
				other := f.settings.Backends["two"]
				f.settings.Backends = map[string]broker.Backend{"one": other, "two": other}
			},
			reason: broker.NoBackend,
		},
		"a recipient that is none any more": {
			refuse: func(f *fixture) {
				f.one.fail.Store(backends.Errorf(backends.Denied, "unwrap", "a", "as the test asked"))
			},
			change: func(f *fixture) {
				f.settings.Keys[0].FormerRecipients = f.settings.Keys[0].Recipients
				f.settings.Keys[0].Recipients = []broker.Recipient{{Backend: "two", Key: "a"}}
			},
			reason: broker.KEKDenied,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := mirrored(t)
				_, wrapped := f.generate(uidTiKV, "tikv", nil)
				f.settings.Keys = append([]broker.Key(nil), f.settings.Keys...)
				tc.refuse(f)
				change := tc.change
				if change == nil {
					change = func(*fixture) {}
				}
				next := f.killed(change)
				synctest.Wait()
				next.wantStarted(restoredOne)
				if got := parts(t, next.memory)[f.partOf(wrapped)]; got != (tc.reason == "") {
					t.Errorf("after the first check it is handed over: %v", got)
				}
				u, err := next.unwrap(wrapped, nil)
				if tc.reason != "" {
					wantReason(t, err, tc.reason)
					return
				}
				if err != nil {
					t.Fatal(explain(err))
				}
				if u.Source != cache.Fresh {
					t.Errorf("source %v, want fresh", u.Source)
				}
			})
		})
	}
}

func TestOrderlyStopHandsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := mirrored(t)
		_, wrapped := f.generate(uidTiKV, "tikv", nil)
		f.one.down(backends.Unavailable)
		if err := f.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		if s := f.arena.Stats(); s.UsedSlots != 0 {
			t.Errorf("%d keys are left in the arena", s.UsedSlots)
		}
		next := f.killed()
		next.wantStarted(restoredOne)
		if _, err := next.unwrap(wrapped, nil); err != nil {
			t.Error(explain(err))
		}
	})
}

func TestRestoredKeyNeverWraps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := mirrored(t)
		_, wrapped := f.generate(uidTiKV, "tikv", nil)
		f.one.down(backends.Unavailable)
		f = f.killed()
		wantReason(t, f.tryGenerate("tikv", 32)(by(uidTiKV)), broker.BackendUnavailable)
		wantReason(t, f.tryWrap("tikv", 32)(by(uidOps)), broker.BackendUnavailable)
		if _, err := f.unwrap(wrapped, nil); err != nil {
			t.Fatal(explain(err))
		}
		f.one.up()
		time.Sleep(time.Minute)
		_, next := f.generate(uidTiKV, "tikv", nil)
		if f.partOf(next) == f.partOf(wrapped) {
			t.Error("a data key was made under a restored intermediate key")
		}
		// Both are handed over from now on.
		if got := parts(t, f.memory); !got[f.partOf(next)] || !got[f.partOf(wrapped)] || len(got) != 2 {
			t.Errorf("%d are handed over", len(got))
		}
	})
}

func TestWhatIsNotRestored(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*fixture)
		why    string // empty: it is restored
	}{
		"nothing changed":   {func(*fixture) {}, ""},
		"the key is gone":   {func(f *fixture) { f.settings.Keys = f.settings.Keys[1:] }, "of a key, a context or a recipient that is not configured"},
		"another context":   {func(f *fixture) { f.settings.Keys[0].Context = pairs(f.t, map[string]string{"cluster": "prod-2"}) }, "of a key, a context or a recipient that is not configured"},
		"a former context":  {formerContext, ""},
		"another recipient": {func(f *fixture) { f.settings.Keys[0].Recipients = []broker.Recipient{{Backend: "two", Key: "a"}} }, "of a key, a context or a recipient that is not configured"},
		"a former recipient": {func(f *fixture) {
			f.settings.Keys[0].FormerRecipients = f.settings.Keys[0].Recipients
			f.settings.Keys[0].Recipients = []broker.Recipient{{Backend: "two", Key: "a"}}
		}, ""},
		"another kind of KMS under the same name": {func(f *fixture) {
			one := f.settings.Backends["one"]
			one.Provider = "other"
			f.settings.Backends = map[string]broker.Backend{"one": one, "two": f.settings.Backends["two"]}
		}, "of a key, a context or a recipient that is not configured"},
		"another boot":                    {func(f *fixture) { f.bootID = "boot 2" }, "from another boot, or a clock that went backwards"},
		"a boot that is not known":        {func(f *fixture) { f.bootID = "" }, "from another boot, or a clock that went backwards"},
		"a clock that was set back":       {func(f *fixture) { f.clock = func() time.Time { return time.Now().Add(-time.Hour) } }, "from another boot, or a clock that went backwards"},
		"a present limit that is smaller": {func(f *fixture) { f.settings.Keys[0].Limits = cache.Limits{TTL: 30 * time.Second} }, "expired"},
		"a present limit that is larger":  {func(f *fixture) { f.settings.Keys[0].Limits = cache.Limits{TTL: 300 * time.Hour} }, ""},
		"no locked memory": {func(f *fixture) {
			for range f.arena.Stats().Slots {
				if _, err := f.arena.New(make([]byte, secret.SlotSize)); err != nil {
					f.t.Fatal(err)
				}
			}
		}, "no room"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := mirrored(t)
				_, wrapped := f.generate(uidTiKV, "tikv", nil)
				time.Sleep(time.Minute)
				f.one.down(backends.Unavailable)
				f.two.down(backends.Unavailable)
				f.settings.Keys = append([]broker.Key(nil), f.settings.Keys...)
				next := f.killed(tc.change)
				left := next.received
				if n := left.Each(func(handover.Entry) { t.Error("what was handed over is not wiped") }); n != 0 {
					t.Errorf("%d damaged entries", n)
				}
				_, err := next.unwrap(wrapped, nil)
				if tc.why == "" {
					next.wantStarted(restoredOne)
					if err != nil {
						t.Error(explain(err))
					}
					return
				}
				next.wantStarted("intermediate keys of the former process: 0 restored, 1 dropped (1 " + tc.why + ")")
				if err == nil {
					t.Error("it is served")
				}
				if got := parts(t, next.memory); len(got) != 0 {
					t.Error("it is handed over again")
				}
			})
		})
	}
}

func formerContext(f *fixture) {
	f.settings.Keys[0].FormerContexts = []envelope.Pairs{f.settings.Keys[0].Context}
	f.settings.Keys[0].Context = pairs(f.t, map[string]string{"cluster": "prod-2"})
}

// Who could write the memory still cannot have a key of his own served.
func TestForgedEntries(t *testing.T) {
	const damaged = "damaged"
	const unlisted = "of a key, a context or a recipient that is not configured"
	for name, tc := range map[string]struct {
		forge func(*handover.Entry)
		why   string
	}{
		"another IK":               {func(e *handover.Entry) { e.IK = bytes.Repeat([]byte{7}, 32) }, damaged},
		"an IK part that is none":  {func(e *handover.Entry) { e.Part = "KBWK" }, damaged},
		"no IK part":               {func(e *handover.Entry) { e.Part = "" }, damaged},
		"more than an IK part":     {func(e *handover.Entry) { e.Part += "x" }, damaged},
		"another backend":          {func(e *handover.Entry) { e.Backend = "two" }, unlisted},
		"another master key":       {func(e *handover.Entry) { e.Key = "b" }, unlisted},
		"a KEK of no wrap":         {func(e *handover.Entry) { e.KEK = "ref:one/a#9" }, unlisted},
		"loaded in the future":     {func(e *handover.Entry) { e.LoadedAt = e.LoadedAt.Add(time.Hour) }, "from another boot, or a clock that went backwards"},
		"loaded before there were": {func(e *handover.Entry) { e.LoadedAt = time.Unix(0, -1<<63) }, "expired"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := mirrored(t)
				_, wrapped := f.generate(uidTiKV, "tikv", nil)
				forged := newHandover(t)
				snapshot(t, f.memory).Each(func(e handover.Entry) {
					e.IK = bytes.Clone(e.IK)
					tc.forge(&e)
					if err := forged.Put([32]byte{1}, e); err != nil {
						t.Error(err)
					}
				})
				f.one.down(backends.Unavailable)
				next := f.killed(func(f *fixture) { f.received = snapshot(t, forged) })
				next.wantStarted("intermediate keys of the former process: 0 restored, 1 dropped (1 " + tc.why + ")")
				_, err := next.unwrap(wrapped, nil)
				wantReason(t, err, broker.BackendUnavailable)
			})
		})
	}
	t.Run("twice the same", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := mirrored(t)
			f.generate(uidTiKV, "tikv", nil)
			forged := newHandover(t)
			snapshot(t, f.memory).Each(func(e handover.Entry) {
				for n := range 2 {
					if err := forged.Put([32]byte{byte(n)}, e); err != nil {
						t.Error(err)
					}
				}
			})
			next := f.killed(func(f *fixture) { f.received = snapshot(t, forged) })
			next.wantStarted("intermediate keys of the former process: 1 restored, 1 dropped (1 no room)")
		})
	})
	t.Run("what is no hand-over memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := mirrored(t)
			null, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			next := f.killed(func(f *fixture) { f.received = handover.Take([]*os.File{null}) })
			if got := next.started(); !strings.Contains(got, "; what the former process left is ignored: it is not what a keybroker left, or damaged") {
				t.Errorf("the start record says %q", got)
			}
			next.generate(uidTiKV, "tikv", nil)
		})
	})
}

// A start that fails leaves what there is to the next one.
func TestFailedStartHandsOnWhatItGot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := mirrored(t)
		f.generate(uidTiKV, "tikv", nil)
		f.received = snapshot(t, f.memory)
		f.memory = newHandover(t)
		f.audit.end(t)
		used := f.arena.Stats().UsedSlots
		if b, err := broker.New(t.Context(), f.options(), f.settings); err == nil {
			b.Close(t.Context())
			t.Fatal("it started without an audit log")
		}
		if got := f.arena.Stats().UsedSlots; got != used {
			t.Errorf("%d keys are in the arena, want %d", got, used)
		}
		n := 0
		if f.received.Each(func(handover.Entry) { n++ }); n != 1 {
			t.Errorf("%d entries are left, want 1", n)
		}
	})
}

// watch looks at the copy of the cache at each step that looks at the clock: whoever
// is killed after the record or the answer must not find there again what was refused.
type watch struct {
	t       *testing.T
	parts   func(*fixture) map[[32]byte]bool
	mu      sync.Mutex
	f       *fixture
	id      [32]byte
	present []bool
	// lines is how many records there were at each step.
	lines []int
}

func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f != nil {
		w.present = append(w.present, w.parts(w.f)[w.id])
		w.lines = append(w.lines, len(w.f.audit.lines(w.t)))
	}
}

func (w *watch) begin(f *fixture, wrapped []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.f, w.id = f, f.partOf(wrapped)
}

func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.f = nil
}

func TestRefusedNeverComesBack(t *testing.T) {
	t.Run("from the hand-over memory", func(t *testing.T) {
		refusedNeverComesBack(t, mirrored, (*fixture).killed, func(f *fixture) map[[32]byte]bool { return parts(f.t, f.memory) })
	})
	t.Run("from the sealed file", func(t *testing.T) {
		refusedNeverComesBack(t, sealed, (*fixture).killedSealed, (*fixture).sealedParts)
	})
}

// refusedNeverComesBack is for one copy of the cache: how a fixture with one is made, and
// the one after it, and what is in the copy.
func refusedNeverComesBack(t *testing.T, first func(*testing.T, ...func(*fixture)) *fixture,
	after func(*fixture, ...func(*fixture)) *fixture, parts func(*fixture) map[[32]byte]bool,
) {
	t.Helper()
	disabled := backends.Errorf(backends.Disabled, "unwrap", "a", "as the test asked")
	for name, tc := range map[string]struct {
		change func(*fixture)
		// leave has the key of wrapped leave the cache.
		leave func(f *fixture, wrapped []byte)
		// record is the event that says so, if there is one.
		record string
	}{
		"refused to a caller": {nil, func(f *fixture, wrapped []byte) {
			f.one.fail.Store(disabled)
			time.Sleep(time.Hour)
			_, err := f.unwrap(wrapped, nil)
			wantReason(f.t, err, broker.KEKDisabled)
		}, "unwrap"},
		"refused to a caller, before a check": {func(f *fixture) { f.settings.Keys[0].CheckInterval = 24 * time.Hour }, func(f *fixture, wrapped []byte) {
			time.Sleep(time.Hour + time.Second)
			f.one.fail.Store(disabled)
			_, err := f.unwrap(wrapped, nil)
			wantReason(f.t, err, broker.KEKDisabled)
		}, "unwrap"},
		"refused to a check": {func(f *fixture) { f.settings.Keys[0].CheckInterval = time.Minute }, func(f *fixture, _ []byte) {
			f.one.fail.Store(disabled)
			time.Sleep(2 * time.Minute)
			synctest.Wait()
		}, "backend"},
		"purged":         {nil, func(f *fixture, _ []byte) { f.purge("tikv") }, "purge"},
		"purged, of all": {nil, func(f *fixture, _ []byte) { f.purgeAll() }, "purge"},
		"dropped by a reload, its key": {nil, func(f *fixture, _ []byte) {
			f.settings.Keys = f.settings.Keys[1:]
			f.reload()
		}, "reload"},
		"dropped by a reload, its recipient": {nil, func(f *fixture, _ []byte) {
			f.settings.Keys[0].Recipients = []broker.Recipient{{Backend: "two", Key: "a"}}
			f.reload()
		}, "reload"},
		"too old": {nil, func(f *fixture, _ []byte) {
			f.one.down(backends.Unavailable)
			time.Sleep(3*time.Hour + 2*time.Minute)
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &watch{t: t, parts: parts}
				change := tc.change
				if change == nil {
					change = func(*fixture) {}
				}
				f := first(t, change, func(f *fixture) {
					f.clock = func() time.Time { w.look(); return time.Now() }
				})
				_, wrapped := f.generate(uidTiKV, "tikv", nil)
				synctest.Wait()
				if !parts(f)[f.partOf(wrapped)] {
					t.Fatal("it would not come back anyhow")
				}
				settings := f.settings
				f.settings.Keys = append([]broker.Key(nil), f.settings.Keys...)
				records := len(f.audit.lines(t))
				w.begin(f, wrapped)
				tc.leave(f, wrapped)
				w.end()
				if parts(f)[f.partOf(wrapped)] {
					t.Error("it would come back after the answer")
				}
				said := len(f.audit.lines(t)) + 1
				for i, r := range f.audit.since(t, records) {
					if r.Event == tc.record {
						said = records + i + 1
						break
					}
				}
				if tc.record != "" && said > len(f.audit.lines(t)) {
					t.Fatalf("no record %s", tc.record)
				}
				left := false
				for i, present := range w.present {
					if present && (left || w.lines[i] >= said) {
						t.Fatalf("at step %d of %d it is there: after it had left %v, after its record %v", i+1, len(w.present), left, w.lines[i] >= said)
					}
					left = left || !present
				}
				// All as before, but that nobody can be asked.
				f.one.down(backends.Unavailable)
				next := after(f, func(f *fixture) { f.settings = settings })
				_, err := next.unwrap(wrapped, nil)
				wantReason(t, err, broker.BackendUnavailable)
			})
		})
	}
}

// What the cache has no room for does not stay behind in the hand-over memory.
func TestEvictedIsNotHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := mirrored(t, func(f *fixture) { f.settings.Keys[0].MaxUses = 1 })
		const made = 70 // room is for 64
		var all [][]byte
		for range made {
			_, wrapped := f.generate(uidTiKV, "tikv", nil)
			all = append(all, wrapped)
		}
		synctest.Wait()
		_, cached := f.held()
		got := parts(t, f.memory)
		if len(got) != cached || got[f.partOf(all[0])] || !got[f.partOf(all[made-1])] {
			t.Errorf("%d are handed over and %d cached; the first %v, the last %v", len(got), cached, got[f.partOf(all[0])], got[f.partOf(all[made-1])])
		}
	})
}
