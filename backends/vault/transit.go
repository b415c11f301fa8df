package vault

import (
	"context"
	"errors"
	"net/http"

	"github.com/keybroker/keybroker/backends"
)

// maxPlaintext is the greatest size of what is wrapped, in bytes.
const maxPlaintext = 64

// Wrap implements backends.KMS. It reads the key before it encrypts, unless it
// has just done so.
func (k *KMS) Wrap(ctx context.Context, req backends.WrapRequest) (backends.Wrapped, error) {
	ctx, done, err := k.begin(ctx)
	if err == nil {
		defer done()
		var w backends.Wrapped
		if w, err = k.wrap(ctx, req); err == nil {
			return w, nil
		}
		k.reconsider(req.Key, err)
	}
	return backends.Wrapped{}, backends.Report("wrap", req.Key, err)
}

func (k *KMS) wrap(ctx context.Context, req backends.WrapRequest) (backends.Wrapped, error) {
	if n := len(req.Plaintext); n < 1 || n > maxPlaintext {
		return backends.Wrapped{}, backends.Fail(backends.InvalidArgument, "the plaintext is %d bytes, not 1 to %d", n, maxPlaintext)
	}
	s, err := k.seal(ctx, req.Key, req.Plaintext, req.AssociatedData)
	if err != nil {
		return backends.Wrapped{}, err
	}
	id, err := k.id(ctx)
	if err != nil {
		return backends.Wrapped{}, err
	}
	return backends.Wrapped{
		Provider:   Provider,
		Reference:  k.cfg.reference(id, req.Key),
		Version:    versionText(s.version),
		Binding:    s.binding,
		Ciphertext: s.text,
	}, nil
}

// Unwrap implements backends.KMS. It reads the key first if it has not for some
// minutes.
func (k *KMS) Unwrap(ctx context.Context, req backends.UnwrapRequest) ([]byte, error) {
	ctx, done, err := k.begin(ctx)
	if err == nil {
		defer done()
		var plaintext []byte
		if plaintext, err = k.unwrap(ctx, req); err == nil {
			return plaintext, nil
		}
		k.reconsider(req.Key, err)
	}
	return nil, backends.Report("unwrap", req.Key, err)
}

func (k *KMS) unwrap(ctx context.Context, req backends.UnwrapRequest) ([]byte, error) {
	switch listed, err := k.match(ctx, req.Key, req.Reference); {
	case err != nil:
		return nil, err
	case !listed:
		return nil, backends.Fail(backends.WrongKey, "it is wrapped by %.200q, which is not this key of this Vault", req.Reference)
	}
	c, ok := parseCiphertext(req.Ciphertext)
	if !ok || req.Version != versionText(c.version) {
		return nil, backends.Fail(backends.InvalidCiphertext, "it is no ciphertext of Transit, or of another version than %.64q", req.Version)
	}
	return k.open(ctx, req.Key, sealed{c, req.Binding}, req.AssociatedData)
}

// sealed is a plaintext that Transit has encrypted, and how it is bound.
type sealed struct {
	ciphertext
	binding backends.Binding
}

// seal encrypts plaintext under the present version of a key that is there.
func (k *KMS) seal(ctx context.Context, key string, plaintext, associatedData []byte) (sealed, error) {
	if err := checkKey(key); err != nil {
		return sealed{}, err
	}
	m, err := k.key(ctx, key, freshToWrap)
	if err != nil {
		return sealed{}, err
	}
	// A login has been made, so Vault has said what it is.
	binding := m.binding(k.server.Load())
	if binding == backends.BindingHash {
		plaintext = backends.BindHash(plaintext, associatedData)
		defer clear(plaintext)
	}
	body, secret := encryptBody(plaintext, associatedData, binding)
	defer clear(body)
	q := request{method: http.MethodPut, path: k.cfg.Mount + "/encrypt/" + key, body: body, secrets: [][]byte{secret}}
	answer, err := k.call(ctx, q)
	if err != nil {
		return sealed{}, k.cryptRefused(key, err)
	}
	r, err := q.parse(answer)
	if err != nil {
		return sealed{}, err
	}
	c, ok := parseCiphertext([]byte(r.Data.Ciphertext))
	switch {
	case !ok || c.size < len(plaintext)+overhead:
		return sealed{}, backends.Fail(backends.Internal, "Vault's answer holds no ciphertext of what was sent")
	case r.Data.KeyVersion != nil && *r.Data.KeyVersion != c.version, c.version < m.MinDecryption:
		return sealed{}, backends.Fail(backends.Internal, "Vault's ciphertext is of version %d, which is not what it says or could decrypt", c.version)
	case c.version < m.LatestVersion:
		// Another key has this name now, or a node that lags behind has answered.
		k.keys.forget(key)
		return sealed{}, backends.Fail(backends.Unavailable, "Vault's ciphertext is of version %d, though it had said that %d is the latest", c.version, m.LatestVersion)
	case c.version > m.LatestVersion:
		k.keys.forget(key)
	}
	return sealed{c, binding}, nil
}

// open decrypts what seal has made. The caller wipes the result.
func (k *KMS) open(ctx context.Context, key string, s sealed, associatedData []byte) ([]byte, error) {
	m, err := k.key(ctx, key, freshToUnwrap)
	if err != nil {
		return nil, err
	}
	if !m.allows(s.binding, k.server.Load()) {
		return nil, backends.Fail(backends.InvalidCiphertext, "this key does not make ciphertexts whose binding is %s", s.binding)
	}
	q := request{method: http.MethodPut, path: k.cfg.Mount + "/decrypt/" + key, body: decryptBody(s.ciphertext, associatedData, s.binding)}
	answer, err := k.call(ctx, q)
	switch {
	case backends.ClassOf(err) == backends.WrongKey:
		return nil, k.tooNew(ctx, key, s.version, err)
	case err != nil:
		return nil, k.cryptRefused(key, err)
	}
	r, err := q.parse(answer)
	if err != nil {
		return nil, err
	}
	plaintext := r.Data.Plaintext
	if s.binding == backends.BindingHash {
		bound := plaintext
		if plaintext, err = backends.UnbindHash(bound, associatedData); err != nil {
			clear(bound)
			return nil, backends.Fail(backends.InvalidCiphertext, "%w", err)
		}
	}
	if n := len(plaintext); n < 1 || n > maxPlaintext {
		clear(plaintext)
		return nil, backends.Fail(backends.Internal, "Vault's answer holds a plaintext of %d bytes, not 1 to %d", n, maxPlaintext)
	}
	return plaintext, nil
}

// tooNew tells apart the two meanings of a version that Vault does not have yet:
// another key's ciphertext, and a node that has not heard of a rotation.
func (k *KMS) tooNew(ctx context.Context, key string, version int, refused error) error {
	switch m, err := k.key(ctx, key, 0); {
	case err != nil:
		return err
	case m.LatestVersion >= version:
		return backends.Fail(backends.Unavailable, "a node of Vault does not have version %d of the key yet", version)
	}
	return refused
}

// cryptRefused says what to do about a refused encrypt or decrypt.
func (k *KMS) cryptRefused(key string, err error) error {
	var answer *refusal
	if !errors.As(err, &answer) {
		return err
	}
	switch backends.ClassOf(err) {
	case backends.Denied:
		return k.denied(key, answer)
	case backends.Disabled:
		return backends.Fail(backends.Disabled, "%w; see min_decryption_version of: vault read %s/keys/%s", answer, k.cfg.Mount, key)
	}
	return err
}

// reconsider forgets what is known of a key when Vault's answer does not go with
// it.
func (k *KMS) reconsider(key string, err error) {
	if c := backends.ClassOf(err); c.Refused() || c == backends.InvalidArgument {
		k.keys.forget(key)
	}
}
