package secret_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keybroker/keybroker/internal/secret"
)

func newArena(t testing.TB, bytes int) *secret.Arena {
	t.Helper()
	a, err := secret.NewArena(secret.Config{Bytes: bytes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return a
}

func filled(b byte) []byte { return bytes.Repeat([]byte{b}, secret.SlotSize) }

func TestNewMovesTheKey(t *testing.T) {
	a := newArena(t, 4096)
	given := filled(7)
	k, err := a.New(given)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(given, filled(0)) {
		t.Error("what was given was not wiped")
	}
	if err := k.Use(func(b []byte) error {
		if !bytes.Equal(b, filled(7)) {
			t.Error("the key is not what was given")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	a := newArena(t, 1)
	if _, err := a.New(make([]byte, 31)); !errors.Is(err, secret.ErrSize) {
		t.Errorf("31 bytes: %v", err)
	}
	var keys []*secret.Key
	for {
		k, err := a.New(filled(1))
		if errors.Is(err, secret.ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	if s := a.Stats(); s.UsedSlots != s.Slots || len(keys) != s.Slots || s.UsedBytes != s.Bytes {
		t.Errorf("%d keys, %+v", len(keys), s)
	}
	keys[0].Wipe()
	keys[0].Wipe()
	if err := keys[0].Use(func([]byte) error { t.Error("a wiped key was used"); return nil }); !errors.Is(err, secret.ErrWiped) {
		t.Errorf("Use after Wipe: %v", err)
	}
	if _, err := a.New(filled(2)); err != nil {
		t.Errorf("a wiped key's slot was not freed: %v", err)
	}
}

func TestWipeWaitsForTheLastUse(t *testing.T) {
	a := newArena(t, 4096)
	k, err := a.New(filled(9))
	if err != nil {
		t.Fatal(err)
	}
	var seen []byte
	err = k.Use(func(b []byte) error {
		k.Wipe()
		if !bytes.Equal(b, filled(9)) {
			t.Error("the bytes changed under a running Use")
		}
		if err := k.Use(func([]byte) error { return nil }); !errors.Is(err, secret.ErrWiped) {
			t.Errorf("a Use began after Wipe: %v", err)
		}
		seen = b
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(seen, filled(0)) {
		t.Error("the bytes were not cleared when the last Use ended")
	}
}

func TestCloseWipesAndWaits(t *testing.T) {
	a, err := secret.NewArena(secret.Config{Bytes: 4096})
	if err != nil {
		t.Fatal(err)
	}
	k, err := a.New(filled(9))
	if err != nil {
		t.Fatal(err)
	}
	inside, closed := make(chan struct{}), make(chan error, 1)
	var ended atomic.Bool
	done := make(chan error, 1)
	go func() {
		done <- k.Use(func(b []byte) error {
			close(inside)
			for a.Stats().UsedSlots == 1 && !ended.Load() {
				if !bytes.Equal(b, filled(9)) {
					return errors.New("the bytes changed under a running Use")
				}
			}
			return nil
		})
	}()
	<-inside
	go func() { closed <- a.Close() }()
	for { // until Close has begun
		if _, err := a.New(filled(1)); errors.Is(err, secret.ErrWiped) {
			break
		}
	}
	ended.Store(true)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if err := k.Use(func([]byte) error { return nil }); !errors.Is(err, secret.ErrWiped) {
		t.Errorf("Use after Close: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
}

// TestNoUseSeesAnotherKey makes, uses and wipes keys at once, in an arena so
// small that slots go round: each Use must see its own key from begin to end.
func TestNoUseSeesAnotherKey(t *testing.T) {
	a := newArena(t, 4096)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 2000 {
				fill := byte(1 + (i*2000+j)%255)
				k, err := a.New(filled(fill))
				if err != nil {
					t.Error(err)
					return
				}
				var users sync.WaitGroup
				for range 3 {
					users.Go(func() {
						err := k.Use(func(b []byte) error {
							for range 3 {
								if !bytes.Equal(b, filled(fill)) {
									return errors.New("a Use saw other bytes than its key's")
								}
							}
							return nil
						})
						if err != nil && !errors.Is(err, secret.ErrWiped) {
							t.Error(err)
						}
					})
				}
				k.Wipe()
				users.Wait()
			}
		})
	}
	wg.Wait()
	if s := a.Stats(); s.UsedSlots != 0 {
		t.Errorf("%d slots leaked", s.UsedSlots)
	}
}

func TestUseDoesNotAllocate(t *testing.T) {
	a := newArena(t, 4096)
	k, err := a.New(filled(1))
	if err != nil {
		t.Fatal(err)
	}
	f := func([]byte) error { return nil }
	if n := testing.AllocsPerRun(100, func() { _ = k.Use(f) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestNothingPrints(t *testing.T) {
	const text = "hunter2-hunter2-hunter2-hunter2!"
	a := newArena(t, 4096)
	k, err := a.New([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	v := secret.NewValue([]byte(text))
	type inside struct {
		Name  string
		Value secret.Value
		Key   *secret.Key
	}
	hex := fmt.Sprintf("%x", text)
	bytesText := strings.Trim(fmt.Sprintf("%d", []byte(text)), "[]")
	check := func(how, out string) {
		t.Helper()
		for _, leak := range []string{text, text[:8], hex, strings.ToUpper(hex), bytesText, "aHVudGVy"} {
			if strings.Contains(out, leak) {
				t.Errorf("%s shows the secret: %s", how, out)
			}
		}
	}
	for name, x := range map[string]any{
		"Value": v, "*Value": &v, "Key": k, "struct": inside{"n", v, k}, "*struct": &inside{"n", v, k},
		"slice": []secret.Value{v}, "map": map[string]secret.Value{"k": v}, "Arena": a,
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%o", "%b", "%c", "%U", "%e", "%t", "%p"} {
			check(name+" "+verb, fmt.Sprintf(verb, x))
		}
		check(name+" Sprint", fmt.Sprint(x))
		out, err := json.Marshal(x)
		if err == nil {
			check(name+" JSON", string(out))
		}
		var buf bytes.Buffer
		slog.New(slog.NewJSONHandler(&buf, nil)).Info("m", "x", x)
		slog.New(slog.NewTextHandler(&buf, nil)).Info("m", "x", x)
		check(name+" slog", buf.String())
	}
	for _, s := range []string{fmt.Sprintf("%v", v), fmt.Sprintf("%+v", inside{"n", v, k}), fmt.Sprintf("%x", v)} {
		if !strings.Contains(s, secret.Redacted) {
			t.Errorf("%q does not say %s", s, secret.Redacted)
		}
	}
	if out, err := json.Marshal(inside{"n", v, k}); err != nil || strings.Count(string(out), secret.Redacted) != 2 {
		t.Errorf("JSON: %s, %v", out, err)
	}
}

func TestValue(t *testing.T) {
	var zero secret.Value
	zero.Wipe()
	if zero.Len() != 0 || zero.Bytes() != nil {
		t.Error("the zero Value holds something")
	}
	b := []byte("secret")
	v := secret.NewValue(b)
	copied := v
	v.Wipe()
	if !bytes.Equal(copied.Bytes(), make([]byte, 6)) || !bytes.Equal(b, make([]byte, 6)) {
		t.Error("Wipe left bytes")
	}
}

func BenchmarkUse(b *testing.B) {
	a := newArena(b, 4096)
	k, err := a.New(filled(1))
	if err != nil {
		b.Fatal(err)
	}
	f := func([]byte) error { return nil }
	b.Run("one", func(b *testing.B) {
		for b.Loop() {
			_ = k.Use(f)
		}
	})
	b.Run("many", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				_ = k.Use(f)
			}
		})
	})
}
