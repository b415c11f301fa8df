package backendtest

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keybroker/keybroker/backends"
)

func testEnded(s *subject) {
	plaintext, pairs := random(32), somePairs()
	w := s.wrap(s.Key, plaintext, pairs)
	for name, test := range map[string]struct {
		end  func(context.Context) (context.Context, context.CancelFunc)
		want error
	}{
		"cancelled": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx, cancel
		}, context.Canceled},
		"cancelled with a cause": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(ctx)
			cancel(errors.New("somebody went home"))
			return ctx, func() { cancel(nil) }
		}, context.Canceled},
		"past its deadline": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithDeadline(ctx, time.Unix(0, 0))
		}, context.DeadlineExceeded},
	} {
		ctx, cancel := test.end(s.Context())
		defer cancel()
		_, wrapErr := s.KMS.Wrap(ctx, wrapRequest(s.Key, plaintext, pairs))
		got, unwrapErr := s.KMS.Unwrap(ctx, unwrapRequest(s.Key, w, pairs))
		if got != nil {
			s.Errorf("%s: Unwrap gives %d bytes", name, len(got))
		}
		for op, err := range map[string]error{"Wrap": wrapErr, "Unwrap": unwrapErr, "Check": s.KMS.Check(ctx, s.Key)} {
			s.refused(name+": "+op, err, s.Key, plaintext, backends.Unavailable)
			if !errors.Is(err, test.want) {
				s.Errorf("%s: %s: the error is not %v: %v", name, op, test.want, err)
			}
		}
		// Match may have no need to ask.
		if ok, err := s.KMS.Match(ctx, s.Key, w.Reference); err != nil {
			s.refused(name+": Match", err, s.Key, nil, backends.Unavailable)
		} else if !ok {
			s.Errorf("%s: Match does not know the key", name)
		}
	}
	s.opens("afterwards", s.Key, w, plaintext, pairs)
}

func testConcurrent(s *subject) {
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			plaintext, pairs := random(32), somePairs()
			w, err := s.KMS.Wrap(s.ctx(), wrapRequest(s.Key, plaintext, pairs))
			if err != nil {
				s.Errorf("Wrap: %v", err)
				return
			}
			s.opens("at once", s.Key, w, plaintext, pairs)
			s.matches(s.Key, w.Reference, true)
			if err := s.KMS.Check(s.ctx(), s.Key); err != nil {
				s.Errorf("Check: %v", err)
			}
			w.Ciphertext[len(w.Ciphertext)-1] ^= 1
			s.shut("damaged", unwrapRequest(s.Key, w, pairs), plaintext, backends.InvalidCiphertext)
		})
	}
	all.Wait()
}

func testClose(s *subject) {
	plaintext, pairs := random(32), somePairs()
	w := s.wrap(s.Key, plaintext, pairs)
	for range 2 {
		if err := s.KMS.Close(); err != nil {
			s.Fatalf("Close: %v", err)
		}
	}
	s.unavailable("closed", w, plaintext, pairs)
}

// unavailable fails the test unless all that asks the KMS is class Unavailable.
func (s *subject) unavailable(what string, w backends.Wrapped, plaintext []byte, pairs map[string]string) {
	s.Helper()
	_, err := s.KMS.Wrap(s.ctx(), wrapRequest(s.Key, plaintext, pairs))
	s.refused(what+": Wrap", err, s.Key, plaintext, backends.Unavailable)
	s.shut(what+": Unwrap", unwrapRequest(s.Key, w, pairs), plaintext, backends.Unavailable)
	s.refused(what+": Check", s.KMS.Check(s.ctx(), s.Key), s.Key, nil, backends.Unavailable)
	// Match may know already.
	if ok, err := s.KMS.Match(s.ctx(), s.Key, w.Reference); err != nil {
		s.refused(what+": Match", err, s.Key, nil, backends.Unavailable)
	} else if !ok {
		s.Errorf("%s: Match does not know the key", what)
	}
}

func testCloseInUse(s *subject) {
	var all, begun sync.WaitGroup
	var closed atomic.Bool
	for range 16 {
		begun.Add(1)
		all.Go(func() {
			first := sync.OnceFunc(begun.Done)
			for {
				after := closed.Load()
				works := s.wrapsAndUnwraps()
				first()
				if works && after {
					s.Error("a call that began after Close works")
				}
				if !works || after {
					return
				}
			}
		})
	}
	begun.Wait()
	if err := s.KMS.Close(); err != nil {
		s.Errorf("Close: %v", err)
	}
	closed.Store(true)
	all.Wait()
}

// wrapsAndUnwraps is false if the KMS is unavailable, and fails the test if that
// is not how it fails.
func (s *subject) wrapsAndUnwraps() bool {
	plaintext, pairs := random(32), somePairs()
	w, err := s.KMS.Wrap(s.ctx(), wrapRequest(s.Key, plaintext, pairs))
	if err != nil {
		s.refused("Wrap", err, s.Key, plaintext, backends.Unavailable)
		return false
	}
	got, err := s.KMS.Unwrap(s.ctx(), unwrapRequest(s.Key, w, pairs))
	if err != nil {
		s.refused("Unwrap", err, s.Key, plaintext, backends.Unavailable)
		return false
	}
	if !bytes.Equal(got, plaintext) {
		s.Error("Unwrap gives something else than was wrapped")
		return false
	}
	return true
}

func testDown(s *subject) {
	if s.Down == nil {
		s.Skip("the fixture has no Down and Up: it cannot make the KMS unreachable")
	}
	plaintext, pairs := random(32), somePairs()
	w := s.wrap(s.Key, plaintext, pairs)
	for range 2 {
		s.Down(s.T)
		s.unavailable("down", w, plaintext, pairs)
		s.Up(s.T)
		s.opens("up again", s.Key, w, plaintext, pairs)
	}
	s.opens("another wrap", s.Key, s.wrap(s.Key, plaintext, pairs), plaintext, pairs)
	s.matches(s.Key, w.Reference, true)
	if err := s.KMS.Check(s.ctx(), s.Key); err != nil {
		s.Errorf("Check: %v", err)
	}
}

func testDownFirst(s *subject) {
	if s.Down == nil {
		s.Skip("the fixture has no Down and Up: it cannot make the KMS unreachable")
	}
	plaintext, pairs := random(32), somePairs()
	s.Down(s.T)
	_, err := s.KMS.Wrap(s.ctx(), wrapRequest(s.Key, plaintext, pairs))
	s.refused("Wrap", err, s.Key, plaintext, backends.Unavailable)
	s.refused("Check", s.KMS.Check(s.ctx(), s.Key), s.Key, nil, backends.Unavailable)
	s.Up(s.T)
	w := s.wrap(s.Key, plaintext, pairs)
	s.opens("up", s.Key, w, plaintext, pairs)
	s.matches(s.Key, w.Reference, true)
}
