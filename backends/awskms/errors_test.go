package awskms_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awskms"
)

func TestCodes(t *testing.T) {
	for code, want := range map[string]backends.Class{
		"NotFoundException":                            backends.NotFound,
		"com.amazonaws.kms#NotFoundException":          backends.NotFound,
		"AccessDeniedException":                        backends.Denied,
		"InvalidGrantTokenException":                   backends.Denied,
		"DisabledException":                            backends.Disabled,
		"InvalidCiphertextException":                   backends.InvalidCiphertext,
		"IncorrectKeyException":                        backends.WrongKey,
		"InvalidArnException":                          backends.InvalidArgument,
		"InvalidKeyUsageException":                     backends.InvalidArgument,
		"ValidationException":                          backends.InvalidArgument,
		"SerializationException":                       backends.InvalidArgument,
		"UnsupportedOperationException":                backends.InvalidArgument,
		"ThrottlingException":                          backends.Throttled,
		"Throttling":                                   backends.Throttled,
		"LimitExceededException":                       backends.Throttled,
		"RequestLimitExceeded":                         backends.Throttled,
		"TooManyRequestsException":                     backends.Throttled,
		"DependencyTimeoutException":                   backends.Unavailable,
		"KeyUnavailableException":                      backends.Unavailable,
		"ServiceUnavailable":                           backends.Unavailable,
		"ServiceUnavailableException":                  backends.Unavailable,
		"KMSInternalException":                         backends.Unavailable,
		"InternalFailure":                              backends.Unavailable,
		"UnrecognizedClientException":                  backends.Unauthenticated,
		"InvalidClientTokenId":                         backends.Unauthenticated,
		"InvalidSignatureException":                    backends.Unauthenticated,
		"SignatureDoesNotMatch":                        backends.Unauthenticated,
		"IncompleteSignature":                          backends.Unauthenticated,
		"ExpiredTokenException":                        backends.Unauthenticated,
		"RequestExpired":                               backends.Unauthenticated,
		"MissingAuthenticationToken":                   backends.Unauthenticated,
		"SomethingNobodyHasHeardOfException":           backends.Internal,
		"com.amazon.coral.service#InternalFailure":     backends.Unavailable,
		"DryRunOperationException":                     backends.Internal,
		"CloudHsmClusterNotFoundException":             backends.Internal,
		"com.amazonaws.kms#InvalidCiphertextException": backends.InvalidCiphertext,
	} {
		t.Run(code, func(t *testing.T) {
			b := newBench(t, nil)
			w, _ := b.wrap(tikv)
			for _, op := range []string{"Encrypt", "Decrypt"} {
				b.fake.answer(op, answerError(400, code, "the message"))
			}
			short := code[strings.LastIndex(code, "#")+1:]
			_, _, err := b.wrapErr(tikv)
			b.fails("Wrap", err, want, "kms:Encrypt", short, "11111111-2222-3333-4444-555555555555", "wrap "+`"`+tikv+`"`)
			_, err = b.unwrap(tikv, w)
			b.fails("Unwrap", err, want, "kms:Decrypt", short)
			if n := len(b.fake.requests("Decrypt")); n != 1 {
				t.Errorf("%d requests for an unwrap", n)
			}
			b.fails("Check", b.kms.Check(t.Context(), tikv), want, "kms:Decrypt", short)
			var e *backends.Error
			if !errors.As(err, &e) || e.Op != "unwrap" || e.Key != tikv {
				t.Errorf("%#v", err)
			}
		})
	}
}

// What does not come from KMS is no answer about a key.
func TestOtherAnswers(t *testing.T) {
	const html = "<html><h1>blocked by the secret-proxy-rule</h1></html>"
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		want   backends.Class
		says   string
	}{
		"HTML 403":           {answerText(403, "text/html", html), backends.Unavailable, "403"},
		"HTML 404":           {answerText(404, "text/html", html), backends.Unavailable, "404"},
		"HTML 407":           {answerText(407, "text/html", html), backends.Unavailable, "407"},
		"HTML 429":           {answerText(429, "text/html", html), backends.Throttled, "429"},
		"HTML 500":           {answerText(500, "text/html", html), backends.Unavailable, "500"},
		"HTML 502":           {answerText(502, "text/html", html), backends.Unavailable, "502"},
		"HTML 503":           {answerText(503, "text/html", html), backends.Unavailable, "503"},
		"HTML 200":           {answerText(200, "text/html", html), backends.Internal, ""},
		"nothing 200":        {answerText(200, "application/x-amz-json-1.1", ""), backends.Internal, ""},
		"{} 200":             {answerText(200, "application/x-amz-json-1.1", "{}"), backends.Internal, "names no key"},
		"null 200":           {answerText(200, "application/x-amz-json-1.1", "null"), backends.Internal, ""},
		"half 200":           {answerText(200, "application/x-amz-json-1.1", `{"KeyId":"`), backends.Internal, ""},
		"no ciphertext 200":  {answerText(200, "application/x-amz-json-1.1", `{"KeyId":"`+tikv+`"}`), backends.Internal, "0 bytes"},
		"another key 200":    {answerText(200, "application/x-amz-json-1.1", `{"KeyId":"`+other+`","CiphertextBlob":"AAAA","Plaintext":"AAAA"}`), backends.Internal, "another key"},
		"an alias 200":       {answerText(200, "application/x-amz-json-1.1", `{"KeyId":"alias/tikv","CiphertextBlob":"AAAA","Plaintext":"AAAA"}`), backends.Internal, "another key"},
		"too large 200":      {answerText(200, "application/x-amz-json-1.1", strings.Repeat(" ", 1<<20)), backends.Internal, "more than"},
		"too large 500":      {answerText(500, "text/html", strings.Repeat(" ", 1<<20)), backends.Unavailable, "500"},
		"nothing 500":        {answerText(500, "text/html", ""), backends.Unavailable, "500"},
		"JSON of others 403": {answerText(403, "application/json", `{"message":"Forbidden"}`), backends.Unavailable, "403"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
		}, backends.Unavailable, "307"},
		"a lost connection": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, backends.Unavailable, "no answer"},
		"AWS's 500":         {answerError(500, "NeverHeardOf", "oops"), backends.Unavailable, "NeverHeardOf"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			w, plaintext := b.wrap(tikv)
			for _, op := range []string{"Encrypt", "Decrypt"} {
				b.fake.answer(op, test.answer)
			}
			_, _, err := b.wrapErr(tikv)
			b.fails("Wrap", err, test.want, test.says)
			got, err := b.unwrap(tikv, w)
			b.fails("Unwrap", err, test.want, test.says)
			if got != nil {
				t.Errorf("%d bytes", len(got))
			}
			if strings.Contains(fmt.Sprint(err), "secret-proxy-rule") {
				t.Errorf("the error repeats what is not AWS's: %v", err)
			}
			b.fails("Check", b.kms.Check(t.Context(), tikv), test.want, test.says)
			b.fake.set(func() { clear(b.fake.instead) })
			b.opens(tikv, w, plaintext)
		})
	}
}

func TestPlaintextSizes(t *testing.T) {
	b := newBench(t, nil)
	w, _ := b.wrap(tikv)
	for size, good := range map[int]bool{0: false, 1: true, 64: true, 65: false, 4096: false} {
		text := base64.StdEncoding.EncodeToString(randomBytes(size))
		b.fake.answer("Decrypt", answerText(200, "application/x-amz-json-1.1", `{"KeyId":"`+tikv+`","Plaintext":"`+text+`"}`))
		got, err := b.unwrap(tikv, w)
		if good != (err == nil) || good && len(got) != size {
			t.Errorf("%d bytes: %d, %v", size, len(got), err)
		}
		if !good {
			b.fails("a size", err, backends.Internal, fmt.Sprintf("%d bytes", size))
		}
	}
	b.fake.answer("Encrypt", answerText(200, "application/x-amz-json-1.1", `{"KeyId":"`+tikv+`","CiphertextBlob":"`+strings.Repeat("AAAA", 342)+`"}`))
	_, _, err := b.wrapErr(tikv)
	b.fails("a ciphertext that is large", err, backends.Internal, "1026 bytes")
}

func TestRetryAfter(t *testing.T) {
	b := newBench(t, nil)
	for text, want := range map[string]time.Duration{"7": 7 * time.Second, "-1": 0, "soon": 0, "99999999999": time.Hour, "9999999": time.Hour} {
		b.fake.answer("Encrypt", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", text)
			writeError(w, &fakeError{400, "ThrottlingException", "Rate exceeded"})
		})
		_, _, err := b.wrapErr(tikv)
		var e *backends.Error
		if !errors.As(err, &e) || e.Class != backends.Throttled || e.RetryAfter != want {
			t.Errorf("%s: %v, %v", text, e.RetryAfter, err)
		}
	}
}

// KMSInvalidStateException means a state of the key, or a failure of its key
// store.
func TestInvalidState(t *testing.T) {
	for state, want := range map[string]backends.Class{
		"PendingDeletion":        backends.Disabled,
		"PendingReplicaDeletion": backends.Disabled,
		"PendingImport":          backends.Disabled,
		"Unavailable":            backends.Unavailable,
		"Creating":               backends.Unavailable,
		"Updating":               backends.Unavailable,
		"SomethingNew":           backends.Disabled,
	} {
		t.Run(state, func(t *testing.T) {
			b := newBench(t, nil)
			w, _ := b.wrap(tikv)
			b.fake.set(func() { b.fake.keys[tikvID].state = state })
			_, err := b.unwrap(tikv, w)
			b.fails("Unwrap", err, want, state)
			_, _, err = b.wrapErr(tikv)
			b.fails("Wrap", err, want, state)
			b.fails("Check", b.kms.Check(t.Context(), tikv), want, state)
		})
	}
	t.Run("a key store that is down", func(t *testing.T) {
		b := newBench(t, nil)
		w, plaintext := b.wrap(tikv)
		b.fake.set(func() { b.fake.keys[tikvID].storeDown = true })
		_, err := b.unwrap(tikv, w)
		b.fails("Unwrap", err, backends.Unavailable, "enabled", "key store")
		b.fake.set(func() { b.fake.denied["DescribeKey"] = true })
		_, err = b.unwrap(tikv, w)
		b.fails("without the right to ask", err, backends.Disabled, "KMSInvalidStateException")
		b.fake.set(func() { clear(b.fake.denied) })
		b.fake.answer("DescribeKey", answerError(400, "ThrottlingException", ""))
		_, err = b.unwrap(tikv, w)
		b.fails("without an answer", err, backends.Throttled)
		b.fake.answer("DescribeKey", answerText(200, "application/x-amz-json-1.1", "{}"))
		_, err = b.unwrap(tikv, w)
		b.fails("with half an answer", err, backends.Internal)
		b.fake.set(func() { b.fake.keys[tikvID].storeDown = false })
		b.opens(tikv, w, plaintext)
	})
}

// An operator reads which permission on which key is missing.
func TestDenied(t *testing.T) {
	b := newBench(t, nil)
	w, _ := b.wrap(tikv)
	b.fake.set(func() { b.fake.denied["Encrypt"], b.fake.denied["Decrypt"] = true, true })
	_, _, err := b.wrapErr(tikv)
	b.fails("Wrap", err, backends.Denied, "allow the broker's role kms:Encrypt on "+tikv, "assumed-role/keybroker/i-1")
	_, err = b.unwrap(tikv, w)
	b.fails("Unwrap", err, backends.Denied, "allow the broker's role kms:Decrypt on "+tikv)
}

// Whatever an answer repeats of a request, no error shows it.
func TestNoSecretIsRepeated(t *testing.T) {
	for _, code := range []string{"ValidationException", "AccessDeniedException", "InvalidSignatureException", "IncompleteSignature", "KMSInternalException"} {
		t.Run(code, func(t *testing.T) {
			const token = "a-session-token-that-is-long"
			b := newBench(t, func(f *fakeKMS, _ *awskms.Config) {
				f.accepted[accessKey] = [2]string{secretKey, token}
				t.Setenv("AWS_SESSION_TOKEN", token)
			})
			echo := func(prefix string) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					writeError(w, &fakeError{400, code, prefix + string(body) + " " + r.Header.Get("X-Amz-Security-Token")})
				}
			}
			for _, prefix := range []string{"", "You sent this. The Canonical String is "} {
				b.fake.answer("Encrypt", echo(prefix))
				_, plaintext, err := b.wrapErr(tikv)
				for _, text := range []string{fmt.Sprintf("%v %+v %#v", err, err, err), b.log.String(), fmt.Sprintf("%v %+v %#v", b.kms, b.kms, b.kms)} {
					for _, secret := range []string{token, secretKey, base64.StdEncoding.EncodeToString(plaintext)[:20]} {
						if strings.Contains(text, secret) {
							t.Errorf("%q is in %s", secret, text)
						}
					}
				}
			}
		})
	}
}

// Texts that are no secret are shown, on one line and cut.
func TestTextsAreShown(t *testing.T) {
	b := newBench(t, nil)
	b.fake.answer("Encrypt", answerError(400, "ValidationException", "something\n\ton\x1b[31m is odd "+strings.Repeat("x", 10000)))
	_, _, err := b.wrapErr(tikv)
	b.fails("Wrap", err, backends.InvalidArgument, `something on\x1b[31m is odd`)
	if len(err.Error()) > 1200 {
		t.Errorf("%d bytes", len(err.Error()))
	}
}

// A call that nobody waits for says so, and leaves nothing behind.
func TestGivenUp(t *testing.T) {
	b := newBench(t, nil)
	w, plaintext := b.wrap(tikv)
	for name, want := range map[string]error{"cancelled": context.Canceled, "past its deadline": context.DeadlineExceeded} {
		came := make(chan struct{}, 8)
		b.fake.answer("Decrypt", func(_ http.ResponseWriter, r *http.Request) { came <- struct{}{}; <-r.Context().Done() })
		ctx, cancel := context.WithCancel(t.Context())
		if errors.Is(want, context.DeadlineExceeded) {
			cancel()
			ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
		} else {
			go func() { <-came; cancel() }()
		}
		got, err := b.kms.Unwrap(ctx, request(tikv, w))
		b.fails(name, err, backends.Unavailable)
		if got != nil || !errors.Is(err, want) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		cancel()
	}
	b.fake.answer("Decrypt", nil)
	b.opens(tikv, w, plaintext)
}

// Close ends calls in flight.
func TestCloseEndsCalls(t *testing.T) {
	b := newBench(t, nil)
	came := make(chan struct{})
	b.fake.answer("Encrypt", func(_ http.ResponseWriter, r *http.Request) { close(came); <-r.Context().Done() })
	failed := make(chan error)
	go func() { _, _, err := b.wrapErr(tikv); failed <- err }()
	<-came
	if err := b.kms.Close(); err != nil {
		t.Error(err)
	}
	b.fails("Wrap", <-failed, backends.Unavailable, "closed")
}

// A machine whose clock is wrong works, and only its first call is made twice.
func TestSkewedClock(t *testing.T) {
	for _, skew := range []time.Duration{-time.Hour, time.Hour} {
		b := newBench(t, func(f *fakeKMS, _ *awskms.Config) { f.skew = skew })
		b.works(tikv)
		if e, d := len(b.fake.requests("Encrypt")), len(b.fake.requests("Decrypt")); e != 2 || d != 1 {
			t.Errorf("%v: %d and %d requests", skew, e, d)
		}
	}
}
