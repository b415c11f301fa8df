package backends_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/backends"
)

func TestReport(t *testing.T) {
	cause := errors.New("cause")
	for name, test := range map[string]struct {
		err   error
		class backends.Class
		after time.Duration
	}{
		"a failure":         {&backends.Failure{Class: backends.Throttled, RetryAfter: time.Second, Err: cause}, backends.Throttled, time.Second},
		"a failure, deeper": {fmt.Errorf("more: %w", backends.Fail(backends.Denied, "no: %w", cause)), backends.Denied, 0},
		"the outermost":     {&backends.Failure{Class: backends.Disabled, Err: backends.Fail(backends.Denied, "%w", cause)}, backends.Disabled, 0},
		"anything else":     {cause, backends.Internal, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := backends.ClassOf(test.err); got != test.class {
				t.Errorf("class %v before it is reported, want %v", got, test.class)
			}
			var e *backends.Error
			if err := backends.Report("wrap", "tikv", test.err); !errors.As(err, &e) || !errors.Is(err, cause) {
				t.Fatalf("%v", err)
			}
			if e.Op != "wrap" || e.Key != "tikv" || e.Class != test.class || e.RetryAfter != test.after {
				t.Errorf("%+v", e)
			}
		})
	}
	if got := backends.ClassOf(&backends.Error{Class: backends.WrongKey, Err: backends.Fail(backends.Denied, "no")}); got != backends.WrongKey {
		t.Errorf("class %v of an Error that a Failure caused", got)
	}
}

func TestEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := backends.Ended(ctx); err != nil {
			t.Errorf("%v before its end", err)
		}
		time.Sleep(time.Second)
		if err := backends.Ended(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v at its deadline", err)
		}
	})
}
