package vault_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/vault"
)

// newFuzzKMS returns a KMS and its fake, and fails a target without seeds.
func newFuzzKMS(f *testing.F) (*vault.KMS, *fakeVault) {
	f.Helper()
	if seeds, err := os.ReadDir(filepath.Join("testdata", "fuzz", f.Name())); err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	v := newFakeVault()
	k, err := vault.New(vault.WithTransport(vault.Config{Address: "http://vault.test:8200", ID: "fuzz", Auth: tokenAuth(f, rootToken)}, network{v}))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = k.Close() })
	return k, v
}

// transitText is what Transit makes, by another way of reading than the
// backend's.
var transitText = regexp.MustCompile(`^vault:v([1-9][0-9]{0,9}):([A-Za-z0-9+/]+={0,2})$`)

// isTransitText returns the version of b, if Transit could have made it of 1 byte
// or more.
func isTransitText(b []byte) (version string, ok bool) {
	m := transitText.FindSubmatch(b)
	if m == nil || len(b) > 1024 {
		return "", false
	}
	if n, err := strconv.Atoi(string(m[1])); err != nil || n > 1<<31-1 {
		return "", false
	}
	raw, err := base64.StdEncoding.DecodeString(string(m[2]))
	return string(m[1]), err == nil && len(raw) > 28 && base64.StdEncoding.EncodeToString(raw) == string(m[2])
}

// What is sent to Vault as a ciphertext has Transit's form, is what the envelope
// holds byte for byte, and stands alone in its field. All else is refused here.
func FuzzCiphertext(f *testing.F) {
	k, v := newFuzzKMS(f)
	w, err := k.Wrap(f.Context(), backends.WrapRequest{Key: "tikv", Plaintext: make([]byte, 32), AssociatedData: someAD})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		version, ok := isTransitText(b)
		req := request("tikv", w)
		req.Ciphertext, req.Version = bytes.Clone(b), version
		if !ok {
			req.Version = "1"
		}
		v.set(func() { v.requests = nil })
		got, err := k.Unwrap(t.Context(), req)
		if !bytes.Equal(req.Ciphertext, b) {
			t.Fatal("Unwrap changed its request")
		}
		if err == nil || got != nil {
			t.Fatalf("%q opens: %v", b, err)
		}
		sent := v.received("transit/decrypt/")
		if !ok {
			if len(sent) > 0 || backends.ClassOf(err) != backends.InvalidCiphertext {
				t.Fatalf("%q: %d sent, %v", b, len(sent), err)
			}
			return
		}
		if len(sent) != 1 || text(sent[0].body, "ciphertext") != string(b) || len(sent[0].body) != 2 {
			t.Fatalf("%q: sent %v, %v", b, sent, err)
		}
		switch backends.ClassOf(err) {
		case backends.InvalidCiphertext, backends.WrongKey:
		default:
			t.Fatalf("%q: %v", b, err)
		}
	})
}

// Of any answer with status 200, only what says so gives a key, and that key.
func FuzzAnswer(f *testing.F) {
	k, v := newFuzzKMS(f)
	w, err := k.Wrap(f.Context(), backends.WrapRequest{Key: "tikv", Plaintext: make([]byte, 32), AssociatedData: someAD})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v.answerWith("transit/decrypt/", func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(b) })
		got, err := k.Unwrap(t.Context(), request("tikv", w))
		var answer struct {
			Warnings []string
			Data     struct{ Plaintext string }
		}
		invalid := json.Unmarshal(b, &answer)
		want, bad := base64.StdEncoding.DecodeString(answer.Data.Plaintext)
		isKey := invalid == nil && bad == nil && len(answer.Warnings) == 0 && len(want) >= 1 && len(want) <= 64
		switch {
		case err == nil && (!isKey || !bytes.Equal(got, want)):
			t.Fatalf("%q gives %x", b, got)
		case err != nil && (got != nil || backends.ClassOf(err) != backends.Internal):
			t.Fatalf("%q: %d bytes, %v", b, len(got), err)
		case err != nil && len(err.Error()) > 1000:
			t.Fatalf("the error is %d bytes long", len(err.Error()))
		}
	})
}
