package broker_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
)

// text is what a logger writes; safe for concurrent use.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *text) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(b)
}

func (t *text) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}

// formsOf are the ways in which b could stand in a text: raw, in hex, and in base64 with
// either alphabet, with padding and without, also in the midst of other bytes.
func formsOf(b []byte) []string {
	forms := []string{string(b), hex.EncodeToString(b), strings.ToUpper(hex.EncodeToString(b))}
	for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for skip := range 3 {
			whole := (len(b) - skip) / 3 * 3 // the rest depends on what follows
			forms = append(forms, e.EncodeToString(b[skip:skip+whole]))
		}
	}
	return forms
}

// run makes every kind of call about the hiding key tikv and the other one, those that
// succeed and those that do not, with the values given, and returns every plaintext key
// that it came to know.
func run(f foreign, value, other string) (keys [][]byte) {
	t := f.t
	t.Helper()
	ctx, wrong := map[string]string{"tenant": value}, map[string]string{"tenant": other}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(explain(err))
		}
	}
	fails := func(err error) {
		t.Helper()
		if err == nil {
			t.Fatal("a call succeeds that should not")
		}
	}
	dek, wrapped := f.generate(uidOps, "tikv", ctx)
	keys = append(keys, bytes.Clone(dek), f.dek)
	mine := bytes.Repeat([]byte{0xf3, 0x11, 0x5e, 0xe7}, 8)
	w, err := f.Wrap(t.Context(), by(uidOps), broker.WrapRequest{KeyName: "tikv-master", Plaintext: mine, Context: ctx})
	ok(err)
	keys = append(keys, mine)
	for _, blob := range [][]byte{wrapped, w.WrappedKey} {
		_, err = f.unwrap(blob, ctx)
		ok(err)
		_, err = f.unwrap(blob, wrong)
		fails(err)
		_, err = f.Unwrap(t.Context(), by(uidNobody), broker.UnwrapRequest{WrappedKey: blob, Context: ctx})
		fails(err)
		_, err = f.Unwrap(t.Context(), by(uidOther), broker.UnwrapRequest{WrappedKey: blob, Context: ctx})
		fails(err)
	}
	_, err = f.unwrap(append(bytes.Clone(wrapped), 1), ctx)
	fails(err)
	_, err = f.unwrap([]byte("nothing"), ctx)
	fails(err)
	_, err = f.UnwrapBatch(t.Context(), by(uidOps), []broker.UnwrapRequest{{WrappedKey: wrapped, Context: ctx}, {WrappedKey: wrapped, Context: wrong}})
	ok(err)
	_, err = f.Rewrap(t.Context(), by(uidOps), broker.RewrapRequest{WrappedKey: wrapped, Context: ctx})
	ok(err)
	_, err = f.Rewrap(t.Context(), by(uidOps), broker.RewrapRequest{WrappedKey: wrapped, Context: ctx, NewContext: wrong, ChangeContext: true})
	ok(err)
	// To a key that does not hide, and from one.
	r, err := f.Rewrap(t.Context(), by(uidOps), broker.RewrapRequest{WrappedKey: wrapped, Context: ctx, KeyName: "other"})
	ok(err)
	_, err = f.Rewrap(t.Context(), by(uidOps), broker.RewrapRequest{WrappedKey: r.WrappedKey, Context: ctx, KeyName: "tikv"})
	ok(err)
	_, err = f.Generate(t.Context(), by(uidOps), broker.GenerateRequest{KeyName: "tikv", Context: map[string]string{"tenant": value + "\xff"}})
	fails(err)
	_, err = f.Generate(t.Context(), by(uidOps), broker.GenerateRequest{KeyName: "tikv", Context: map[string]string{"tenant": strings.Repeat(value, 1000)}})
	fails(err)
	_, err = f.open(uidOps, "tikv", nil)
	ok(err)
	_, err = f.open(uidOps, "tikv", ctx)
	fails(err)
	_, err = f.Inspect(t.Context(), by(uidOps), wrapped)
	ok(err)
	for _, kms := range []*fakeKMS{f.one, f.two} {
		kms.down(backends.Internal)
	}
	_, err = f.Purge(t.Context(), by(uidOps), "", true)
	ok(err)
	_, err = f.unwrap(wrapped, ctx)
	fails(err)
	for _, kms := range []*fakeKMS{f.one, f.two} {
		kms.mu.Lock()
		for _, w := range kms.stored { // the intermediate keys
			keys = append(keys, w.plaintext)
		}
		kms.mu.Unlock()
	}
	return keys
}

// TestLogsHoldNeitherKeysNorHiddenValues searches the audit log and the broker's own log
// of a run for every plaintext key, and for the values of contexts that are hidden.
func TestLogsHoldNeitherKeysNorHiddenValues(t *testing.T) {
	const value, other = "Tenant-Hamburg-17", "Tenant-Bremen-4"
	logged := &text{}
	f := newForeign(t, 32, nil, func(f *fixture) {
		f.settings.Keys[0].HideContext = true
		f.logger = slog.New(slog.NewTextHandler(logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	keys := run(f, value, other)
	if len(keys) < 5 {
		t.Fatalf("only %d keys are known", len(keys))
	}
	audited := strings.Join(f.audit.lines(t), "\n")
	for name, text := range map[string]string{"the audit log": audited, "the broker's log": logged.String()} {
		if text == "" {
			t.Fatalf("%s is empty", name)
		}
		for i, key := range keys {
			for _, form := range formsOf(key) {
				if strings.Contains(text, form) {
					t.Errorf("%s holds key %d as %q", name, i, form)
				}
			}
		}
		for _, secret := range []string{value, other} {
			if i := strings.Index(text, secret); i >= 0 {
				t.Errorf("%s holds %q: %s", name, secret, text[max(0, i-300):min(len(text), i+100)])
			}
		}
	}
	hidden := 0
	for _, line := range f.audit.lines(t) {
		var r struct{ Context map[string]string }
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		for name, value := range r.Context {
			if name != "tenant" || !strings.HasPrefix(value, "hmac-sha256:") {
				t.Errorf("%s=%s", name, value)
			}
			hidden++
		}
	}
	if hidden < 10 {
		t.Errorf("only %d values are hidden", hidden)
	}
}

// The context of a key that does not hide stands as it is, and so does that of a call
// after a reload that changed this.
func TestValuesAreHiddenByKey(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.settings.Keys[0].HideContext = true })
	ctx := map[string]string{"tenant": "hamburg"}
	clear := func() bool { return strings.Contains(f.audit.last(t), `"context":{"tenant":"hamburg"}`) }
	if f.generate(uidOps, "tikv", ctx); clear() {
		t.Error("tikv does not hide")
	}
	if f.generate(uidOps, "other", ctx); !clear() {
		t.Error("other hides")
	}
	f.settings.Keys = []broker.Key{f.settings.Keys[0], f.settings.Keys[1]}
	f.settings.Keys[0].HideContext, f.settings.Keys[1].HideContext = false, true
	if _, err := f.Reload(t.Context(), by(uidOps)); err != nil {
		t.Fatal(err)
	}
	if f.generate(uidOps, "tikv", ctx); !clear() {
		t.Error("tikv still hides")
	}
	if f.generate(uidOps, "other", ctx); clear() {
		t.Error("other does not hide")
	}
}
