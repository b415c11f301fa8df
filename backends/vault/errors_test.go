package vault_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/vault"
)

// The error table: what Vault says to a decrypt, and what it means.
func TestAnswers(t *testing.T) {
	for _, test := range []struct {
		name   string
		status int
		texts  []string
		want   backends.Class
	}{
		{"no key", 400, []string{"encryption key not found"}, backends.NotFound},
		{"no mount or namespace", 404, []string{`no handler for route "transit/decrypt/tikv". route entry not found.`}, backends.NotFound},
		{"an empty 404", 404, nil, backends.NotFound},
		{"a token that is not known", 403, []string{"2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"}, backends.Unauthenticated},
		{"a token that is not known, as two texts", 403, []string{"permission denied", "invalid token"}, backends.Unauthenticated},
		{"a bad token", 403, []string{"bad token"}, backends.Unauthenticated},
		{"a policy", 403, []string{"1 error occurred:\n\t* permission denied\n\n"}, backends.Denied},
		{"a policy, on its own", 403, []string{"permission denied"}, backends.Denied},
		{"too old", 400, []string{"ciphertext or signature version is disallowed by policy (too old)"}, backends.Disabled},
		{"soft-deleted", 400, []string{"refusing to use soft-deleted key"}, backends.Disabled},
		{"no prefix", 400, []string{"invalid ciphertext: no prefix"}, backends.InvalidCiphertext},
		{"no base64", 400, []string{"invalid ciphertext: could not decode base64"}, backends.InvalidCiphertext},
		{"too short", 400, []string{"invalid ciphertext length"}, backends.InvalidCiphertext},
		{"GCM", 400, []string{"cipher: message authentication failed"}, backends.InvalidCiphertext},
		{"ChaCha20", 400, []string{"chacha20poly1305: message authentication failed"}, backends.InvalidCiphertext},
		{"RSA", 500, []string{"1 error occurred:\n\t* failed to RSA decrypt the ciphertext: crypto/rsa: decryption error\n\n"}, backends.InvalidCiphertext},
		{"no context", 400, []string{"missing 'context' for key derivation; the key was created using a derived key"}, backends.InvalidArgument},
		{"bit length", 400, []string{"invalid bit length"}, backends.InvalidArgument},
		{"non-AEAD", 400, []string{"'[0].associated_data' provided for non-AEAD cipher suite rsa-2048"}, backends.InvalidArgument},
		{"key version", 400, []string{"no such key version"}, backends.InvalidArgument},
		{"a 400 without a text", 400, nil, backends.InvalidArgument},
		{"method", 405, nil, backends.InvalidArgument},
		{"too large", 413, []string{"http: request body too large"}, backends.InvalidArgument},
		{"associated data", 500, []string{"unable to get associated_data/additional_data from factory[0]: illegal base64 data at input byte 0"}, backends.InvalidArgument},
		{"quota", 429, []string{`request path "transit/decrypt/tikv": rate limit quota exceeded`}, backends.Throttled},
		{"sealed", 503, []string{"Vault is sealed"}, backends.Unavailable},
		{"no active node", 503, []string{"no active Vault instance found"}, backends.Unavailable},
		{"not active", 503, []string{"node is not active"}, backends.Unavailable},
		{"overloaded", 503, []string{"overloaded, try again later"}, backends.Unavailable},
		{"locked namespace", 503, []string{"API access to this namespace has been locked by an administrator"}, backends.Unavailable},
		{"index state", 412, []string{"required index state not present"}, backends.Unavailable},
		{"request timeout", 408, nil, backends.Unavailable},
		{"not initialized", 501, nil, backends.Unavailable},
		{"bad gateway", 502, nil, backends.Unavailable},
		{"gateway timeout", 504, nil, backends.Unavailable},
		{"DR secondary", 472, nil, backends.Unavailable},
		{"performance standby", 473, nil, backends.Unavailable},
		{"HA unhealthy", 474, nil, backends.Unavailable},
		{"removed", 530, nil, backends.Unavailable},
		{"storage", 500, []string{"1 error occurred:\n\t* internal error\n\n"}, backends.Internal},
		{"a status that it never has", 418, nil, backends.Internal},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, nil)
			w, _ := b.wrap("tikv")
			b.vault.answerWith("transit/decrypt/", answerJSON(test.status, test.texts...))
			got, err := b.unwrap(t.Context(), "tikv", w)
			b.fails("Unwrap", err, test.want)
			var e *backends.Error
			if got != nil || !errors.As(err, &e) || e.Key != "tikv" || e.Op != "unwrap" {
				t.Errorf("%d bytes, %#v", len(got), err)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}

			b.vault.answerWith("", nil)
			b.works("tikv")
		})
	}
}

// What is not Vault's own answer is never a definite one about a key.
func TestAnswersThatAreNotVaults(t *testing.T) {
	const page = "<html><body>blocked by the proxy</body></html>"
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		want   backends.Class
	}{
		{"a page with 400", answerText(400, "text/html", page), backends.Unavailable},
		{"a page with 403", answerText(403, "text/html", page), backends.Unavailable},
		{"a page with 404", answerText(404, "text/html", page), backends.Unavailable},
		{"a page with 429", answerText(429, "text/html", page), backends.Throttled},
		{"a page with 500", answerText(500, "text/html", page), backends.Unavailable},
		{"a page with 502", answerText(502, "text/html", page), backends.Unavailable},
		{"somebody else's JSON with 404", answerText(404, "application/json", `{"message":"no Route matched"}`), backends.Unavailable},
		{"nothing with 403", answerText(403, "application/json", ""), backends.Unavailable},
		{"an endless 403", answerText(403, "text/html", strings.Repeat("x", 2<<20)), backends.Unavailable},
		{"a page with 200", answerText(200, "text/html", page), backends.Internal},
		{"nothing with 200", answerText(200, "application/json", ""), backends.Internal},
		{"nothing with 204", answerText(204, "", ""), backends.Internal},
		{"an empty object", answerText(200, "application/json", "{}"), backends.Internal},
		{"no data", answerText(200, "application/json", `{"data":null}`), backends.Internal},
		{"half an answer", answerText(200, "application/json", `{"data":{"plaintext":"AAAA`), backends.Internal},
		{"two answers", answerText(200, "application/json", `{"data":{"plaintext":"AAAA"}}{}`), backends.Internal},
		{"an endless answer", answerText(200, "application/json", `{"data":{"plaintext":"`+strings.Repeat("A", 2<<20)+`"}}`), backends.Internal},
		{"a list", answerText(200, "application/json", `[]`), backends.Internal},
		{"bad base64", answerText(200, "application/json", `{"data":{"plaintext":"A*AA"}}`), backends.Internal},
		{"base64 without padding", answerText(200, "application/json", `{"data":{"plaintext":"AAA"}}`), backends.Internal},
		{"a number", answerText(200, "application/json", `{"data":{"plaintext":12}}`), backends.Internal},
		{"an empty plaintext", answerText(200, "application/json", `{"data":{"plaintext":""}}`), backends.Internal},
		{"a long plaintext", answerText(200, "application/json", `{"data":{"plaintext":"`+strings.Repeat("AAAA", 22)+`"}}`), backends.Internal},
		{"a warning", answerText(200, "application/json", `{"data":{"plaintext":"AAAA"},"warnings":["Endpoint ignored these unrecognized parameters: [associated_data]"]}`), backends.Internal},
		{"warnings that are no list", answerText(200, "application/json", `{"data":{"plaintext":"AAAA"},"warnings":"no"}`), backends.Internal},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, nil)
			w, _ := b.wrap("tikv")
			b.vault.answerWith("transit/decrypt/", test.answer)
			got, err := b.unwrap(t.Context(), "tikv", w)
			b.fails("Unwrap", err, test.want)
			if got != nil {
				t.Errorf("%d bytes", len(got))
			}
			if strings.Contains(err.Error(), "blocked") {
				t.Errorf("the page is in the error: %v", err)
			}
			if n := b.vault.count("auth/"); n != 1 {
				t.Errorf("%d logins", n)
			}
			b.vault.answerWith("", nil)
			b.works("tikv")
		})
	}
}

// What a wrap's answer must be.
func TestWrapAnswers(t *testing.T) {
	good := "vault:v1:" + strings.Repeat("AAAA", 20)
	for _, test := range []struct {
		name, answer string
		want         backends.Class
	}{
		{"nothing", ``, backends.Internal},
		{"no ciphertext", `{"data":{"key_version":1}}`, backends.Internal},
		{"no Vault ciphertext", `{"data":{"ciphertext":"` + strings.Repeat("AAAA", 20) + `"}}`, backends.Internal},
		{"version 0", `{"data":{"ciphertext":"vault:v0:` + strings.Repeat("AAAA", 20) + `"}}`, backends.Internal},
		{"another version", `{"data":{"ciphertext":"` + good + `","key_version":2}}`, backends.Internal},
		{"too short to hold the key", `{"data":{"ciphertext":"vault:v1:` + strings.Repeat("AAAA", 19) + `"}}`, backends.Internal},
		{"too long", `{"data":{"ciphertext":"vault:v1:` + strings.Repeat("AAAA", 255) + `"}}`, backends.Internal},
		{"a warning", `{"data":{"ciphertext":"` + good + `","key_version":1},"warnings":["Endpoint ignored these unrecognized parameters: [associated_data]"]}`, backends.Internal},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, nil)
			b.works("tikv")
			b.vault.answerWith("transit/encrypt/", answerText(200, "application/json", test.answer))
			_, _, err := b.wrapErr("tikv")
			b.fails("Wrap", err, test.want)
		})
	}
	b := newBench(t, nil)
	b.vault.answerWith("transit/encrypt/", answerText(200, "application/json", `{"data":{"ciphertext":"`+good+`","key_version":1},"warnings":[]}`))
	if w, _ := b.wrap("tikv"); string(w.Ciphertext) != good || w.Version != "1" {
		t.Errorf("%s, version %s", w.Ciphertext, w.Version)
	}
}

// A ciphertext of an older version than the key is said to have comes from a node
// that lags behind, or from a key that was made anew.
func TestWrapByAnOldVersion(t *testing.T) {
	b := newBench(t, nil)
	b.vault.set(func() { b.vault.keys["tikv"].pretend = 2 })
	_, _, err := b.wrapErr("tikv")
	b.fails("Wrap", err, backends.Unavailable)
	b.vault.set(func() { b.vault.keys["tikv"].pretend = 0 })
	b.works("tikv")
}

// A version that Vault does not have is another key's, unless only one node does
// not have it.
func TestVersionTooNew(t *testing.T) {
	b := newBench(t, nil)
	w, _ := b.wrap("tikv")
	b.works("tikv")
	reads := b.vault.count("transit/keys/")

	foreign := w
	foreign.Version = "9"
	foreign.Ciphertext = []byte(strings.Replace(string(w.Ciphertext), "vault:v1:", "vault:v9:", 1))
	_, err := b.unwrap(t.Context(), "tikv", foreign)
	b.fails("version 9", err, backends.WrongKey)
	if b.vault.count("transit/keys/") == reads {
		t.Error("the key was not read again")
	}

	b.vault.answerWith("transit/decrypt/", answerJSON(400, "invalid ciphertext: version is too new"))
	_, err = b.unwrap(t.Context(), "tikv", w)
	b.fails("version 1 on a node that lags", err, backends.Unavailable)
}

// The version beside a ciphertext is the one in it.
func TestVersionOfTheEnvelope(t *testing.T) {
	b := newBench(t, nil)
	w, plaintext := b.wrap("tikv")
	for _, version := range []string{"", "0", "2", "01", "1 ", "v1"} {
		req := request("tikv", w)
		req.Version = version
		_, err := b.kms.Unwrap(t.Context(), req)
		b.fails("version "+version, err, backends.InvalidCiphertext)
	}
	if n := b.vault.count("transit/decrypt/"); n > 0 {
		t.Errorf("%d were sent", n)
	}
	b.opens("tikv", w, plaintext)
}

func TestRetryAfter(t *testing.T) {
	for header, want := range map[string]time.Duration{"7": 7 * time.Second, "": 0, "-1": 0, "soon": 0, "1000000": time.Hour, "99999999999": time.Hour} {
		b := newBench(t, nil)
		w, _ := b.wrap("tikv")
		b.vault.answerWith("transit/decrypt/", func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Retry-After", header)
			writeErrors(rw, http.StatusTooManyRequests, "rate limit quota exceeded")
		})
		_, err := b.unwrap(t.Context(), "tikv", w)
		var e *backends.Error
		if !errors.As(err, &e) || e.RetryAfter != want {
			t.Errorf("Retry-After %q: %v", header, err)
		}
	}
}

// A ctx that ends during a call gives the call up, and says which end it was.
func TestGivenUp(t *testing.T) {
	for _, path := range []string{"sys/health", "auth/", "transit/keys/", "transit/decrypt/"} {
		b := newBench(t, nil)
		other := newBench(t, nil)
		w, _ := other.wrap("tikv")
		began := make(chan struct{}, 1)
		b.vault.answerWith(path, func(rw http.ResponseWriter, r *http.Request) {
			began <- struct{}{}
			hang(rw, r)
		})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-began
			cancel()
		}()
		_, err := b.unwrap(ctx, "tikv", w)
		b.fails(path, err, backends.Unavailable)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", path, err)
		}
		_ = b.kms.Close()
	}
}

// Close ends what waits for Vault, and returns.
func TestCloseWhileVaultHangs(t *testing.T) {
	for _, path := range []string{"sys/health", "auth/", "transit/keys/"} {
		b := newBench(t, nil)
		began := make(chan struct{}, 1)
		b.vault.answerWith(path, func(rw http.ResponseWriter, r *http.Request) {
			began <- struct{}{}
			hang(rw, r)
		})
		failed := make(chan error, 1)
		go func() {
			_, _, err := b.wrapErr("tikv")
			failed <- err
		}()
		<-began
		if err := b.kms.Close(); err != nil {
			t.Error(err)
		}
		err := <-failed
		b.fails(path, err, backends.Unavailable)
		if err == nil || errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "closed") {
			t.Errorf("%s: it looks as if the caller had given up: %v", path, err)
		}
	}
}

// A sealed Vault is unavailable, and works again without help; so does one that
// was never reached.
func TestSealed(t *testing.T) {
	b := newBench(t, func(v *fakeVault, _ *vault.Config) { v.sealed = true })
	_, _, err := b.wrapErr("tikv")
	b.fails("sealed from the start", err, backends.Unavailable)
	b.fails("Check", b.kms.Check(t.Context(), "tikv"), backends.Unavailable)
	_, err = b.kms.Match(t.Context(), "tikv", "18f6c753-2362-e1df-7931-a9b6038af25c//transit/tikv")
	b.fails("Match", err, backends.Unavailable)

	b.vault.set(func() { b.vault.sealed = false })
	w, plaintext := b.wrap("tikv")
	b.vault.set(func() { b.vault.sealed = true })
	_, err = b.unwrap(t.Context(), "tikv", w)
	b.fails("sealed later", err, backends.Unavailable)
	if !strings.Contains(err.Error(), "sealed") {
		t.Errorf("it does not say why: %v", err)
	}
	b.vault.set(func() { b.vault.sealed = false })
	b.opens("tikv", w, plaintext)
}
