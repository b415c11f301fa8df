package broker_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/policy"
	"github.com/keybroker/keybroker/cache"
)

func TestReloadReturnsWarnings(t *testing.T) {
	f := newFixture(t)
	want := []string{"audit.path holds only after a restart", "clients.ops: it may do everything"}
	f.settings.SHA256, f.settings.Warnings = "1", want
	r, err := f.Reload(t.Context(), by(uidOps))
	if err != nil {
		t.Fatal(explain(err))
	}
	if !slices.Equal(r.Warnings, want) || r.SHA256 != "1" {
		t.Errorf("config %q, warnings %q, want those of the new settings", r.SHA256, r.Warnings)
	}
	f.settings.SHA256, f.settings.Warnings = "2", nil
	if r, err = f.Reload(t.Context(), by(uidOps)); err != nil || len(r.Warnings) != 0 || r.SHA256 != "2" {
		t.Errorf("without warnings: config %q, warnings %q, %v", r.SHA256, r.Warnings, err)
	}
}

// reloads are the two ways to reload.
func reloads() map[string]func(*fixture) error {
	return map[string]func(*fixture) error{
		"by call":   func(f *fixture) error { _, err := f.Reload(f.t.Context(), by(uidOps)); return err },
		"by signal": func(f *fixture) error { return f.ReloadBySignal(f.t.Context()) },
	}
}

// A reload that fails leaves everything as it was: whoever could open a key can,
// whoever could not cannot, and what is cached stays so.
func TestFailedReloadChangesNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(*fixture)
		why   string
	}{
		"the file is bad":           {func(f *fixture) { f.loadErr = errors.New("config.yaml:7: keys.tikv: no recipients") }, "config.yaml:7: keys.tikv: no recipients"},
		"a backend that is not":     {func(f *fixture) { f.settings.Keys[0].Recipients[0].Backend = "nowhere" }, "key tikv: there is no backend nowhere"},
		"no policy":                 {func(f *fixture) { f.settings.Policy = nil }, "without a policy"},
		"two keys of one name":      {func(f *fixture) { f.settings.Keys[1].Name = "tikv" }, "two keys are called tikv"},
		"a key without a recipient": {func(f *fixture) { f.settings.Keys[0].Recipients = nil }, "key tikv: 0 recipients"},
	} {
		for how, reload := range reloads() {
			t.Run(name+" "+how, func(t *testing.T) {
				f := newFixture(t)
				dek, wrapped := f.generate(uidTiKV, "tikv", nil)
				before, err := f.Status(t.Context(), by(uidOps))
				if err != nil {
					t.Fatal(explain(err))
				}
				wraps, unwraps := f.one.wraps.Load(), f.one.unwraps.Load()

				// The new settings would let nobody do anything, and have another master
				// key, another key and no backend two.
				nobody, err := policy.New(nil)
				if err != nil {
					t.Fatal(err)
				}
				f.settings.SHA256, f.settings.Policy = "1", nobody
				f.settings.Backends = map[string]broker.Backend{"one": f.settings.Backends["one"]}
				f.settings.Keys = []broker.Key{newKey("tikv", "one/b"), newKey("new", "one/a")}
				tc.spoil(f)
				f.now.Advance(time.Minute)
				records := len(f.audit.lines(t))

				e := wantError(t, reload(f), broker.InvalidArgument)
				for _, part := range []string{"the configuration was not changed", tc.why} {
					if !strings.Contains(e.Message, part) {
						t.Errorf("the message does not say %q: %s", part, e.Message)
					}
				}
				added := f.audit.since(t, records)
				if len(added) != 1 || added[0].Outcome != "error" || added[0].Reason != "INVALID_ARGUMENT" || added[0].Code != "INVALID_ARGUMENT" ||
					!strings.Contains(added[0].Detail, "config 0") || !strings.Contains(added[0].Detail, tc.why) {
					t.Errorf("the record says neither why nor what is in force: %+v", added)
				}

				u, err := f.Unwrap(t.Context(), by(uidTiKV), broker.UnwrapRequest{WrappedKey: wrapped})
				if err != nil || !bytes.Equal(u.Plaintext.Bytes(), dek) || u.Source != cache.Fresh {
					t.Errorf("the old key: source %v, %v", u.Source, err)
				}
				if _, next := f.generate(uidTiKV, "tikv-master", nil); f.partOf(next) != f.partOf(wrapped) {
					t.Error("new data keys get another intermediate key")
				}
				wantReason(t, f.tryGenerate("tikv", 32)(by(uidNobody)), broker.AccessDenied)
				wantReason(t, f.tryWrap("tikv", 32)(by(uidTiKV)), broker.AccessDenied)
				wantReason(t, f.tryGenerate("new", 32)(by(uidOps)), broker.KeyNotFound)
				if w, u := f.one.wraps.Load(), f.one.unwraps.Load(); w != wraps || u != unwraps {
					t.Errorf("the KMS was asked: %d wraps, %d unwraps", w-wraps, u-unwraps)
				}
				if f.one.closed.Load() || f.two.closed.Load() {
					t.Errorf("closed: one %v, two %v", f.one.closed.Load(), f.two.closed.Load())
				}
				after, err := f.Status(t.Context(), by(uidOps))
				if err != nil {
					t.Fatal(explain(err))
				}
				if after.ConfigSHA256 != before.ConfigSHA256 || !after.ConfigLoadedAt.Equal(before.ConfigLoadedAt) {
					t.Errorf("status says config %s of %v, want %s of %v", after.ConfigSHA256, after.ConfigLoadedAt, before.ConfigSHA256, before.ConfigLoadedAt)
				}
			})
		}
	}
}

// A failure is no obstacle to the next reload.
func TestReloadAfterAFailedOne(t *testing.T) {
	for how, reload := range reloads() {
		t.Run(how, func(t *testing.T) {
			f := newFixture(t)
			f.loadErr = errors.New("config.yaml: permission denied")
			wantReason(t, reload(f), broker.InvalidArgument)
			f.loadErr = nil
			f.settings.SHA256 = "1"
			f.settings.Keys = append(slices.Clone(f.settings.Keys), newKey("new", "one/a"))
			records := len(f.audit.lines(t))
			if err := reload(f); err != nil {
				t.Fatal(explain(err))
			}
			if r := f.audit.since(t, records); len(r) != 1 || r[0].Outcome != "ok" || !strings.Contains(r[0].Detail, "config 1") {
				t.Errorf("the record: %+v", r)
			}
			f.generate(uidOps, "new", nil)
		})
	}
}
