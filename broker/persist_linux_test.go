package broker_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/envelope"
	"github.com/keybroker/keybroker/cache"
	"github.com/keybroker/keybroker/internal/persist"
)

func newPlace(t *testing.T) sealedPlace {
	t.Helper()
	dir := t.TempDir()
	p := sealedPlace{path: filepath.Join(dir, "cache.sealed"), sealer: persist.KeyFile{Path: filepath.Join(dir, "key")}}
	if err := os.WriteFile(p.sealer.Path, bytes.Repeat([]byte("key material for a test"), 2), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// keep has f keep its cache in a sealed file at its place.
func (f *fixture) keep() {
	f.t.Helper()
	file, err := persist.Create(persist.Config{Path: f.place.path, Capacity: 4, Sealer: f.place.sealer, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if err := file.Close(context.Background()); err != nil && !errors.Is(err, persist.ErrNotDestroyed) {
			f.t.Error(err)
		}
	})
	f.persist = broker.Persist{File: file, MaxAge: 24 * time.Hour}
}

// find has f find the sealed file at a place.
func (f *fixture) find(place sealedPlace) {
	f.t.Helper()
	left := persist.Open(place.path, place.sealer)
	f.t.Cleanup(func() { left.Close() })
	f.persist.Left = left
}

// sealed is a fixture in a bubble whose cache is in a sealed file.
func sealed(t *testing.T, change ...func(*fixture)) *fixture {
	t.Helper()
	return newFixture(t, append([]func(*fixture){func(f *fixture) {
		f.clock = time.Now
		f.bootID = "boot 1"
		f.place = newPlace(t)
		f.keep()
		f.settings.Keys[0].Context = pairs(t, map[string]string{"cluster": "prod-1"})
	}}, change...)...)
}

// killedSealed is the fixture that comes after f, which is killed in this moment.
func (f *fixture) killedSealed(change ...func(*fixture)) *fixture {
	f.t.Helper()
	b, err := os.ReadFile(f.place.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.t.Fatal(err)
	}
	return sealed(f.t, append([]func(*fixture){func(next *fixture) {
		next.one, next.two, next.settings = f.one, f.two, f.settings
		next.place.sealer = f.place.sealer
		left := sealedPlace{filepath.Join(f.t.TempDir(), "left"), f.place.sealer}
		if b != nil {
			if err := os.WriteFile(left.path, b, 0o600); err != nil {
				f.t.Fatal(err)
			}
		}
		next.keep() // under the key of f
		next.find(left)
	}}, change...)...)
}

// rebooted has a fixture run in another boot, which began this long ago.
func rebooted(ago time.Duration) func(*fixture) {
	return func(f *fixture) {
		f.bootID = "boot 2"
		began := time.Now().Add(-ago)
		f.uptime = func() time.Time { return time.Unix(0, 0).Add(time.Since(began)) }
	}
}

// sealedParts are the identities of the intermediate keys in the file at f's place.
func (f *fixture) sealedParts() map[[32]byte]bool {
	f.t.Helper()
	f.look.mu.Lock()
	defer f.look.mu.Unlock()
	b, err := os.ReadFile(f.place.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.t.Error(err)
	}
	if f.look.found != nil && bytes.Equal(b, f.look.bytes) {
		return f.look.found
	}
	left := persist.Open(f.place.path, f.place.sealer)
	defer left.Close()
	found := map[[32]byte]bool{}
	f.look.bytes, f.look.found = b, found
	left.Each(func(e persist.Entry) {
		p, err := envelope.ParseIKPart([]byte(e.Part))
		if err != nil {
			f.t.Error(err)
			return
		}
		found[p.ID()] = true
	})
	return found
}

const unsealedOne = "intermediate keys of the sealed file: 1 restored, 0 dropped"

// A key is served after a restart and after a reboot as long as it would have been
// without.
func TestRebootInAnOutage(t *testing.T) {
	const expired = "intermediate keys of the sealed file: 0 restored, 1 dropped (1 expired)"
	for name, tc := range map[string]struct {
		before, down, after time.Duration
		maxAge              time.Duration
		source              cache.Source
		gone                bool
		started             string
	}{
		"within its ttl":                {time.Minute, time.Second, 58 * time.Minute, time.Hour, cache.Fresh, false, unsealedOne},
		"killed within, asked past":     {time.Minute, time.Second, time.Hour, time.Hour, cache.Stale, false, unsealedOne},
		"down while its ttl passed":     {time.Minute, time.Hour, 0, 24 * time.Hour, cache.Stale, false, unsealedOne},
		"past its ttl":                  {2 * time.Hour, 0, 59 * time.Minute, 24 * time.Hour, cache.Stale, false, unsealedOne},
		"killed before, asked at limit": {time.Minute, time.Second, 3*time.Hour - time.Minute - time.Second, time.Hour, 0, true, unsealedOne},
		"down while its limit passed":   {time.Minute, 3*time.Hour - time.Minute, 0, 24 * time.Hour, 0, true, expired},
		"a moment before max_age":       {time.Minute, time.Hour - time.Minute - 1, 0, time.Hour, cache.Fresh, false, unsealedOne},
		"at max_age":                    {time.Minute, time.Hour - time.Minute, 0, time.Hour, 0, true, expired},
	} {
		for boot, change := range map[string]func(*fixture){
			"the process":              func(*fixture) {},
			"the host":                 rebooted(time.Second),
			"the host, up for longer":  rebooted(24 * time.Hour),
			"where no boot has a name": func(f *fixture) { f.bootID = "" },
		} {
			t.Run(name+", of "+boot, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := sealed(t)
					dek, wrapped := f.generate(uidTiKV, "tikv", nil)
					f.one.down(backends.Unavailable)
					time.Sleep(tc.before)
					next := f.killedSealed(func(f *fixture) {
						time.Sleep(tc.down)
						change(f)
						f.persist.MaxAge = tc.maxAge
					})
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
					if !bytes.Equal(u.Plaintext.Bytes(), dek) {
						t.Error("another data key")
					}
					if tc.source != u.Source && name != "a moment before max_age" {
						t.Errorf("source %v, want %v", u.Source, tc.source)
					}
				})
			})
		}
	}
}

// It goes on over many reboots, no younger for any of them.
func TestManyReboots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := sealed(t)
		_, wrapped := f.generate(uidTiKV, "tikv", nil)
		f.one.down(backends.Unavailable)
		for i := range 5 {
			time.Sleep(30 * time.Minute)
			f = f.killedSealed(rebooted(time.Duration(i)*time.Hour), func(f *fixture) { f.bootID = strings.Repeat("b", i+2) })
			f.wantStarted(unsealedOne)
			if _, err := f.unwrap(wrapped, nil); err != nil {
				t.Fatal(explain(err))
			}
		}
		time.Sleep(30 * time.Minute)
		_, err := f.unwrap(wrapped, nil)
		wantReason(t, err, broker.BackendUnavailable)
	})
}

func TestUnsealedKeyNeverWraps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := sealed(t)
		_, wrapped := f.generate(uidTiKV, "tikv", nil)
		synctest.Wait()
		f.one.down(backends.Unavailable)
		f = f.killedSealed()
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
		synctest.Wait()
		if got := f.sealedParts(); !got[f.partOf(next)] || !got[f.partOf(wrapped)] || len(got) != 2 {
			t.Errorf("%d are in the file", len(got))
		}
	})
}

func TestOrderlyStopSeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := sealed(t)
		dek, wrapped := f.generate(uidTiKV, "tikv", nil)
		f.one.down(backends.Unavailable)
		if err := f.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if last := f.audit.last(t); !strings.Contains(last, `"stop"`) || !strings.Contains(last, "intermediate keys in the sealed file: 1") {
			t.Errorf("the last record is %s", last)
		}
		b, err := os.ReadFile(f.place.path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, dek) || bytes.Contains(b, wrapped[:64]) || bytes.Contains(b, []byte("boot 1")) {
			t.Error("it is not sealed")
		}
		next := f.killedSealed()
		next.wantStarted(unsealedOne)
		if _, err := next.unwrap(wrapped, nil); err != nil {
			t.Error(explain(err))
		}
	})
}

func TestWhatIsNotUnsealed(t *testing.T) {
	const clock = "1 from another boot, or a clock that went backwards"
	const unlisted = "1 of a key, a context or a recipient that is not configured"
	set := func(d time.Duration) func(*fixture) {
		return func(f *fixture) { f.clock = func() time.Time { return time.Now().Add(d) } }
	}
	both := func(changes ...func(*fixture)) func(*fixture) {
		return func(f *fixture) {
			for _, c := range changes {
				c(f)
			}
		}
	}
	for name, tc := range map[string]struct {
		change func(*fixture)
		why    string // empty: it is restored
	}{
		"nothing changed":    {func(*fixture) {}, ""},
		"the key is gone":    {func(f *fixture) { f.settings.Keys = f.settings.Keys[1:] }, unlisted},
		"another context":    {func(f *fixture) { f.settings.Keys[0].Context = pairs(f.t, map[string]string{"cluster": "prod-2"}) }, unlisted},
		"a former context":   {formerContext, ""},
		"another recipient":  {func(f *fixture) { f.settings.Keys[0].Recipients = []broker.Recipient{{Backend: "two", Key: "a"}} }, unlisted},
		"a smaller limit":    {func(f *fixture) { f.settings.Keys[0].Limits = cache.Limits{TTL: 30 * time.Second} }, "1 expired"},
		"a smaller max_age":  {func(f *fixture) { f.persist.MaxAge = time.Minute }, "1 expired"},
		"another boot":       {rebooted(time.Minute), ""},
		"the clock set back": {both(rebooted(time.Minute), set(-time.Hour)), clock},
		"the clock set back, to after it was opened": {both(rebooted(time.Minute), set(-30*time.Second)), ""},
		"the clock set forward":                      {both(rebooted(time.Minute), set(24*time.Hour)), "1 expired"},
		// Within a boot nobody asks the clock that can be set.
		"the clock set back, in the same boot": {both(func(f *fixture) { f.uptime = time.Now }, set(-time.Hour)), ""},
		"an uptime from before it": {func(f *fixture) {
			f.uptime = func() time.Time { return time.Now().Add(-time.Hour) }
		}, clock},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := sealed(t)
				_, wrapped := f.generate(uidTiKV, "tikv", nil)
				time.Sleep(time.Minute)
				f.one.down(backends.Unavailable)
				f.two.down(backends.Unavailable)
				f.settings.Keys = append([]broker.Key(nil), f.settings.Keys...)
				next := f.killedSealed(tc.change)
				_, err := next.unwrap(wrapped, nil)
				if tc.why == "" {
					next.wantStarted(unsealedOne)
					if err != nil {
						t.Error(explain(err))
					}
					return
				}
				next.wantStarted("intermediate keys of the sealed file: 0 restored, 1 dropped (" + tc.why + ")")
				if err == nil {
					t.Error("it is served")
				}
				if got := next.sealedParts(); len(got) != 0 {
					t.Error("it is in the new file")
				}
			})
		})
	}
}

// A clock that is before anything in the file has been set back by nobody knows how
// much: not even what it makes older than nothing comes back.
func TestClockBeforeTheLastEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := sealed(t)
		f.generate(uidTiKV, "tikv", nil)
		time.Sleep(time.Hour)
		f.generate(uidOther, "other", nil)
		synctest.Wait()
		next := f.killedSealed(rebooted(time.Minute), func(f *fixture) {
			f.clock = func() time.Time { return time.Now().Add(-30 * time.Minute) }
		})
		next.wantStarted("intermediate keys of the sealed file: 0 restored, 2 dropped (2 from another boot, or a clock that went backwards)")
	})
}

// Nothing that is wrong with the file keeps the broker from starting.
func TestUselessSealedFile(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*fixture)
		want   string
	}{
		"there was none": {func(f *fixture) { f.find(newPlace(f.t)) }, "intermediate keys of the sealed file: 0 restored, 0 dropped"},
		"another key": {func(f *fixture) {
			other := newPlace(f.t)
			if err := os.WriteFile(other.sealer.Path, bytes.Repeat([]byte("another key"), 4), 0o600); err != nil {
				f.t.Fatal(err)
			}
			b, err := os.ReadFile(f.place.path + ".new")
			if err != nil {
				f.t.Fatal(err)
			}
			if err := os.WriteFile(other.path, b, 0o600); err != nil {
				f.t.Fatal(err)
			}
			f.find(other)
		}, "the sealed file is ignored: its key cannot be unsealed: another key file sealed it, or it is damaged"},
		"damaged": {func(f *fixture) {
			place := newPlace(f.t)
			if err := os.WriteFile(place.path, []byte("KBSEALED"), 0o600); err != nil {
				f.t.Fatal(err)
			}
			f.find(place)
		}, "the sealed file is ignored: it is not what a keybroker left, or damaged"},
		"no file can be kept": {func(f *fixture) { f.persist = broker.Persist{Off: errors.New("no TPM")} }, "the cache is kept in no sealed file: no TPM"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := sealed(t)
				next := f.killedSealed(tc.change)
				next.wantStarted(tc.want)
				_, wrapped := next.generate(uidTiKV, "tikv", nil)
				if _, err := next.unwrap(wrapped, nil); err != nil {
					t.Error(explain(err))
				}
			})
		})
	}
}

// What the former process has handed over is newer than a file that it kept too.
func TestHandedOverWins(t *testing.T) {
	for name, tc := range map[string]struct {
		broken bool
		want   string
	}{
		"whole":  {false, restoredOne + "; the sealed file is not read: the former process handed its cache over"},
		"broken": {true, "what the former process left is ignored: as the test asked; " + unsealedOne},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := sealed(t, func(f *fixture) { f.memory = newHandover(t) })
				_, wrapped := f.generate(uidTiKV, "tikv", nil)
				synctest.Wait()
				f.one.down(backends.Unavailable)
				next := f.killedSealed(func(next *fixture) {
					next.memory = newHandover(t)
					next.received = snapshot(t, f.memory)
					if tc.broken {
						next.received.Refuse(errors.New("as the test asked"))
					}
				})
				next.wantStarted(tc.want)
				if _, err := next.unwrap(wrapped, nil); err != nil {
					t.Fatal(explain(err))
				}
				synctest.Wait()
				if id := next.partOf(wrapped); !parts(t, next.memory)[id] || !next.sealedParts()[id] {
					t.Error("it is not in both copies again")
				}
			})
		})
	}
}

// breakDisk has every further write to the open file at path fail: its descriptor
// becomes one that cannot be written.
func breakDisk(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err != nil || to != path {
			continue
		}
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		null, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
		if err := unix.Dup3(int(null.Fd()), fd, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("nobody has %s open", path)
}

// A disk that fails costs the file, and no call; a purge of which it is not known that
// it reached the disk is not said to be one.
func TestSealedFileOfABrokenDisk(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil  func(t *testing.T, path string)
		reason broker.Reason // of the purge; empty: it succeeds
		stop   string
	}{
		"that lets it be removed": {func(*testing.T, string) {}, "", "the sealed file was given up"},
		// A directory that is not empty is neither overwritten nor removed.
		"that does not": {func(t *testing.T, path string) {
			if err := errors.Join(os.Remove(path), os.MkdirAll(filepath.Join(path, "x"), 0o700)); err != nil {
				t.Fatal(err)
			}
		}, broker.Internal, "the sealed file may not be what it should"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := sealed(t)
				_, wrapped := f.generate(uidTiKV, "tikv", nil)
				synctest.Wait()
				breakDisk(t, f.place.path)
				tc.spoil(t, f.place.path)
				n, err := f.Purge(t.Context(), by(uidOps), "tikv", false)
				if tc.reason != "" {
					told := wantError(t, err, tc.reason)
					if !strings.Contains(told.Message, "by hand") {
						t.Errorf("it does not say what to do: %s", told.Message)
					}
				} else if err != nil || n != 1 {
					t.Errorf("%d purged, %v", n, err)
				} else if _, err := os.Stat(f.place.path); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("the file is still there: %v", err)
				}
				if !f.persist.File.Gone() {
					t.Error("it is kept, it says")
				}
				if _, err := f.unwrap(wrapped, nil); err != nil {
					t.Error(explain(err))
				}
				f.generate(uidTiKV, "tikv", nil)
				if err := f.Close(t.Context()); err != nil {
					t.Error(err)
				}
				if last := f.audit.last(t); !strings.Contains(last, tc.stop) {
					t.Errorf("the last record is %s", last)
				}
			})
		})
	}
}

// A start that fails leaves the file to the next one.
func TestFailedStartLeavesTheFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := sealed(t)
		_, wrapped := f.generate(uidTiKV, "tikv", nil)
		if err := f.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.audit.end(t)
		f.keep()
		f.find(f.place)
		if b, err := broker.New(t.Context(), f.options(), f.settings); err == nil {
			b.Close(t.Context())
			t.Fatal("it started without an audit log")
		}
		if err := f.persist.File.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !f.sealedParts()[f.partOf(wrapped)] {
			t.Error("the file is gone")
		}
	})
}
