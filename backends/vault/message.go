package vault

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"

	"github.com/keybroker/keybroker/backends"
)

// The bodies of encrypt and decrypt are written and read here, not by the client
// library, whose values are strings and cannot be wiped.

// encryptBody returns the JSON that asks for plaintext to be encrypted, and the
// part of it that is secret. The caller wipes it.
func encryptBody(plaintext, associatedData []byte, binding backends.Binding) (body, secret []byte) {
	const head = `{"plaintext":"`
	size := base64.StdEncoding.EncodedLen(len(plaintext))
	// Large enough not to grow, which would leave a copy behind.
	body = make([]byte, 0, len(head)+size+bindingSize(associatedData))
	body = append(body, head...)
	body = base64.StdEncoding.AppendEncode(body, plaintext)
	secret = body[len(head):]
	body = append(body, '"')
	return appendBinding(body, associatedData, binding), secret
}

// decryptBody returns the JSON that asks for a ciphertext to be decrypted. The
// text of a ciphertext needs no escapes.
func decryptBody(c ciphertext, associatedData []byte, binding backends.Binding) []byte {
	body := append([]byte(`{"ciphertext":"`), c.text...)
	return appendBinding(append(body, '"'), associatedData, binding)
}

// appendBinding appends what ties to associatedData, and ends the JSON.
func appendBinding(body, associatedData []byte, binding backends.Binding) []byte {
	switch binding {
	case backends.BindingDerived:
		sum := sha256.Sum256(associatedData)
		body = append(body, `,"context":"`...)
		body = base64.StdEncoding.AppendEncode(body, sum[:])
		body = append(body, '"')
	case backends.BindingAAD:
		body = append(body, `,"associated_data":"`...)
		body = base64.StdEncoding.AppendEncode(body, associatedData)
		body = append(body, '"')
	}
	return append(body, '}')
}

// bindingSize is more than appendBinding appends, in bytes.
func bindingSize(associatedData []byte) int {
	return 32 + base64.StdEncoding.EncodedLen(max(len(associatedData), sha256.Size))
}

// reply is the answer to encrypt and decrypt.
type reply struct {
	Warnings []string `json:"warnings"`
	Data     struct {
		Ciphertext string `json:"ciphertext"`
		KeyVersion *int   `json:"key_version"`
		// Plaintext is decoded from base64 into bytes of its own. No string of it
		// comes into being.
		Plaintext []byte `json:"plaintext"`
	} `json:"data"`
}

// parse reads the answer to r, and wipes it. Vault warns of parameters that it
// ignored, among which could be the binding, so a warning is an error. The caller
// wipes the plaintext.
func (r *request) parse(answer []byte) (*reply, error) {
	defer clear(answer)
	got := &reply{}
	switch err := json.Unmarshal(answer, got); {
	case len(answer) == 0:
		return nil, backends.Fail(backends.Internal, "%s was answered with nothing", r.name())
	case err != nil:
		// What the decoder says could quote the plaintext.
		clear(got.Data.Plaintext)
		return nil, backends.Fail(backends.Internal, "%s was not answered as Vault does; does a proxy change its answers?", r.name())
	case len(got.Warnings) > 0:
		encoded := base64.StdEncoding.AppendEncode(nil, got.Data.Plaintext)
		r.secrets = append(r.secrets, encoded)
		warning := r.shown(got.Warnings[0])
		clear(encoded)
		clear(got.Data.Plaintext)
		return nil, backends.Fail(backends.Internal, "%s was answered with a warning, so the key may not be bound as it should: %s", r.name(), warning)
	}
	return got, nil
}
