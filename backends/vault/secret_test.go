package vault_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/vault"
)

// Whatever an answer repeats of a request, no error and no log shows it.
func TestNoSecretIsRepeated(t *testing.T) {
	echo := func(status int, prefix string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			text := prefix + r.Header.Get("X-Vault-Token") + " " + string(body)
			if status == http.StatusOK {
				writeJSON(w, status, map[string]any{"data": map[string]any{"plaintext": "AAAA", "ciphertext": text}, "warnings": []string{text}})
				return
			}
			writeErrors(w, status, text)
		}
	}
	for _, path := range []string{"auth/approle/login", "auth/token/renew-self", "transit/keys/", "transit/encrypt/", "transit/decrypt/", "sys/wrapping/unwrap"} {
		for _, status := range []int{200, 307, 400, 403, 404, 429, 500, 503} {
			t.Run(fmt.Sprintf("%s %d", path, status), func(t *testing.T) {
				b := newBench(t, func(v *fakeVault, cfg *vault.Config) {
					cfg.Auth = appRoleAuth(t, v, tikvRole())
					if strings.HasPrefix(path, "sys/") {
						cfg.Auth.SecretIDWrapped = true
					}
				})
				b.vault.answerWith(path, echo(status, "you sent "))
				w, plaintext, err := b.wrapErr("tikv")
				shown := []string{fmt.Sprintf("%v %+v %#v", err, err, err)}
				if path == "transit/decrypt/" {
					_, err = b.unwrap(t.Context(), "tikv", w)
					shown = append(shown, fmt.Sprintf("%v %+v %#v", err, err, err))
				}
				shown = append(shown, b.log.String(), fmt.Sprintf("%v %+v %#v", b.kms, b.kms, b.kms))
				secrets := []string{roleID, secretID, "hvs.login", base64.StdEncoding.EncodeToString(plaintext), string(plaintext), "AAAA"}
				for _, secret := range secrets {
					for _, text := range shown {
						if strings.Contains(text, secret) {
							t.Errorf("%q is in %s", secret, text)
						}
					}
				}
			})
		}
	}
}

// Texts that are no secret are shown, on one line and cut.
func TestTextsAreShown(t *testing.T) {
	b := newBench(t, nil)
	w, _ := b.wrap("tikv")
	b.vault.answerWith("transit/decrypt/", answerJSON(500, "disk full\n\ton\x1b[31m node 3 "+strings.Repeat("x", 10000)))
	_, err := b.unwrap(t.Context(), "tikv", w)
	b.fails("Unwrap", err, backends.Internal)
	if err == nil || !strings.Contains(err.Error(), `disk full on\x1b[31m node 3`) || len(err.Error()) > 1000 {
		t.Errorf("%v", err)
	}
}

// A transport may read a request's body after it has returned. By then the body
// is wiped, and must not be read.
func TestLateReadOfABody(t *testing.T) {
	late := &lateReader{network: network{newFakeVault()}}
	k, err := vault.New(vault.WithTransport(vault.Config{Address: "http://vault.test:8200", Auth: tokenAuth(t, rootToken)}, late))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	plaintext := randomBytes(32)
	w, err := k.Wrap(t.Context(), backends.WrapRequest{Key: "tikv", Plaintext: plaintext, AssociatedData: someAD})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Unwrap(t.Context(), request("tikv", w)); err != nil {
		t.Fatal(err)
	}
	if len(late.bodies) == 0 {
		t.Fatal("no body came")
	}
	for _, get := range late.bodies {
		body, err := get()
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(body); err == nil || len(b) > 0 {
			t.Errorf("%d bytes, %v", len(b), err)
		}
	}
}

// lateReader keeps each request's body.
type lateReader struct {
	network
	bodies []func() (io.ReadCloser, error)
}

func (l *lateReader) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		l.bodies = append(l.bodies, r.GetBody)
	}
	return l.network.RoundTrip(r)
}

// Requests and replies are the caller's: none is kept or changed.
func TestBytesAreTheCallers(t *testing.T) {
	for _, key := range []string{"tikv", "derived"} {
		b := newBench(t, nil)
		plaintext, associated := randomBytes(32), bytes.Clone(someAD)
		before := bytes.Clone(plaintext)
		w, err := b.kms.Wrap(t.Context(), backends.WrapRequest{Key: key, Plaintext: plaintext, AssociatedData: associated})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(plaintext, before) || !bytes.Equal(associated, someAD) {
			t.Error("Wrap changed its request")
		}
		got, err := b.unwrap(t.Context(), key, w)
		if err != nil {
			t.Fatal(err)
		}
		clear(got)
		b.opens(key, w, before)
	}
}

// Two errors of one login are two: none shares what the other may change.
func TestErrorsNameTheirCall(t *testing.T) {
	b := newBench(t, withAppRole(t, tikvRole()))
	b.vault.set(func() { clear(b.vault.roles) })
	_, _, wrapErr := b.wrapErr("tikv")
	checkErr := b.kms.Check(t.Context(), "other")
	var w, c *backends.Error
	if !errors.As(wrapErr, &w) || !errors.As(checkErr, &c) || w.Op != "wrap" || w.Key != "tikv" || c.Op != "check" || c.Key != "other" {
		t.Errorf("%v\n%v", wrapErr, checkErr)
	}
}
