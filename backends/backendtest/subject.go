package backendtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// limit ends a call that would hang the suite. It is no promise.
const limit = time.Minute

// subject is a Fixture in one test.
type subject struct {
	Fixture
	*testing.T
}

// ctx is for one call.
func (s *subject) ctx() context.Context {
	ctx, cancel := context.WithTimeout(s.Context(), limit)
	s.Cleanup(cancel)
	return ctx
}

// random returns n random bytes.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

func wrapRequest(key string, plaintext []byte, pairs map[string]string) backends.WrapRequest {
	return backends.WrapRequest{Key: key, Plaintext: plaintext, Pairs: pairs, AssociatedData: canonical(pairs)}
}

func unwrapRequest(key string, w backends.Wrapped, pairs map[string]string) backends.UnwrapRequest {
	return backends.UnwrapRequest{
		Key: key, Reference: w.Reference, Version: w.Version, Binding: w.Binding, Ciphertext: w.Ciphertext,
		Pairs: pairs, AssociatedData: canonical(pairs),
	}
}

// wrap wraps, or ends the test.
func (s *subject) wrap(key string, plaintext []byte, pairs map[string]string) backends.Wrapped {
	s.Helper()
	w, err := s.KMS.Wrap(s.ctx(), wrapRequest(key, plaintext, pairs))
	if err != nil {
		s.Fatalf("Wrap under %s: %v", key, err)
	}
	return w
}

// opens fails the test unless w opens to plaintext.
func (s *subject) opens(what, key string, w backends.Wrapped, plaintext []byte, pairs map[string]string) {
	s.Helper()
	got, err := s.KMS.Unwrap(s.ctx(), unwrapRequest(key, w, pairs))
	if err != nil || !bytes.Equal(got, plaintext) {
		s.Errorf("%s: Unwrap gives %d bytes, %v, not the %d wrapped", what, len(got), err, len(plaintext))
	}
}

// shut fails the test unless req is refused as one of classes and gives
// nothing. secret is what must not be in the error.
func (s *subject) shut(what string, req backends.UnwrapRequest, secret []byte, classes ...backends.Class) {
	s.Helper()
	got, err := s.KMS.Unwrap(s.ctx(), req)
	if err == nil || got != nil {
		s.Errorf("%s: Unwrap gives %d bytes, %v", what, len(got), err)
		return
	}
	s.refused(what, err, req.Key, secret, classes...)
}

// refused fails the test unless err is a *backends.Error of one of classes that
// names key and holds no part of secret.
func (s *subject) refused(what string, err error, key string, secret []byte, classes ...backends.Class) {
	s.Helper()
	var e *backends.Error
	switch {
	case err == nil:
		s.Errorf("%s: no error", what)
		return
	case !errors.As(err, &e):
		s.Errorf("%s: the error wraps no *backends.Error: %v", what, err)
		return
	case !slices.Contains(classes, backends.ClassOf(err)):
		s.Errorf("%s: class %v, want one of %v: %v", what, backends.ClassOf(err), classes, err)
	case e.Key != key || !strings.Contains(err.Error(), strconv.Quote(key)):
		s.Errorf("%s: the error does not name the key %q: %v", what, key, err)
	case e.Op == "":
		s.Errorf("%s: the error does not name the call: %v", what, err)
	}
	s.tellsNothing(what, err, secret)
}

// tellsNothing fails the test if err, printed in any way, holds secret in any
// usual form. Short secrets are everywhere, so they are not looked for.
func (s *subject) tellsNothing(what string, err error, secret []byte) {
	s.Helper()
	if len(secret) < 16 {
		return
	}
	list := strings.Trim(fmt.Sprintf("%d", secret), "[]")
	whole := secret[:len(secret)/3*3] // base64 of what begins with it begins alike
	forms := []string{
		string(secret), strings.Trim(strconv.Quote(string(secret)), `"`),
		fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), fmt.Sprintf("% x", secret),
		base64.StdEncoding.EncodeToString(whole), base64.URLEncoding.EncodeToString(whole),
		list, strings.ReplaceAll(list, " ", ", "), strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", secret), "[]byte{"), "}"),
	}
	for _, verb := range []string{"%v", "%+v", "%#v"} {
		text := fmt.Sprintf(verb, err)
		if slices.ContainsFunc(forms, func(form string) bool { return strings.Contains(text, form) }) {
			s.Errorf("%s: the error, printed with %s, holds the plaintext", what, verb)
			return
		}
	}
}
