package backends_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
)

func TestClasses(t *testing.T) {
	for c, want := range map[backends.Class]struct {
		text    string
		refused bool
	}{
		backends.Internal:          {"internal", false},
		backends.NotFound:          {"not_found", true},
		backends.Denied:            {"denied", true},
		backends.Disabled:          {"disabled", true},
		backends.InvalidCiphertext: {"invalid_ciphertext", false},
		backends.WrongKey:          {"wrong_key", true},
		backends.Throttled:         {"throttled", false},
		backends.Unavailable:       {"unavailable", false},
		backends.Unauthenticated:   {"unauthenticated", false},
		backends.InvalidArgument:   {"invalid_argument", false},
		backends.Class(200):        {"internal", false},
	} {
		if got := c.String(); got != want.text {
			t.Errorf("class %d is %q, want %q", uint8(c), got, want.text)
		}
		if got := c.Refused(); got != want.refused {
			t.Errorf("%v: refused %t, want %t", c, got, want.refused)
		}
	}
	if backends.Class(0) != backends.Internal {
		t.Error("an error that nobody sorted is no internal one")
	}
}

func TestClassOf(t *testing.T) {
	denied := &backends.Error{Class: backends.Denied, Op: "unwrap"}
	for name, test := range map[string]struct {
		err  error
		want backends.Class
	}{
		"nil":           {nil, backends.Internal},
		"no Error":      {fs.ErrNotExist, backends.Internal},
		"itself":        {denied, backends.Denied},
		"wrapped":       {fmt.Errorf("a: %w", fmt.Errorf("b: %w", denied)), backends.Denied},
		"joined":        {errors.Join(fs.ErrNotExist, denied), backends.Denied},
		"the outermost": {&backends.Error{Class: backends.Unavailable, Err: denied}, backends.Unavailable},
		"not wrapped":   {fmt.Errorf("a: %v", denied), backends.Internal},
		"without class": {&backends.Error{Err: denied}, backends.Internal},
	} {
		if got := backends.ClassOf(test.err); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func TestErrorText(t *testing.T) {
	cause := errors.New("no route to host")
	for want, err := range map[string]*backends.Error{
		`wrap "tikv": unavailable: no route to host`: {Class: backends.Unavailable, Op: "wrap", Key: "tikv", Err: cause},
		`wrap "tikv": disabled`:                      {Class: backends.Disabled, Op: "wrap", Key: "tikv"},
		`login: unauthenticated: no route to host`:   {Class: backends.Unauthenticated, Op: "login", Err: cause},
		`check "a\nb": internal`:                     {Op: "check", Key: "a\nb", RetryAfter: time.Second},
	} {
		if got := err.Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if got := errors.Unwrap(err); !errors.Is(got, err.Err) {
			t.Errorf("%s: unwraps to %v", want, got)
		}
	}
}

func TestErrorf(t *testing.T) {
	err := backends.Errorf(backends.Unavailable, "unwrap", "tikv", "after %d tries: %w", 3, context.Canceled)
	want := backends.Error{Class: backends.Unavailable, Op: "unwrap", Key: "tikv", Err: err.Err}
	if *err != want || err.Error() != `unwrap "tikv": unavailable: after 3 tries: context canceled` {
		t.Errorf("%+v: %v", *err, err)
	}
	if !errors.Is(err, context.Canceled) {
		t.Error("its cause is lost")
	}
	var e *backends.Error
	if !errors.As(fmt.Errorf("outer: %w", err), &e) || e != err {
		t.Error("it is not found in an error's tree")
	}
}

// A log in JSON has the class by its name, as metrics and audit records have.
func TestClassInALog(t *testing.T) {
	var out strings.Builder
	slog.New(slog.NewJSONHandler(&out, nil)).Info("failed", "class", backends.Unavailable)
	if !strings.Contains(out.String(), `"class":"unavailable"`) {
		t.Error(out.String())
	}
}
