package awskms

import (
	"context"
	"unicode/utf8"

	"github.com/keybroker/keybroker/backends"
)

const (
	// maxPlaintext is the greatest size of what is wrapped, in bytes.
	maxPlaintext = 64
	// maxCiphertext is the greatest size of a ciphertext that an envelope takes,
	// in bytes. KMS's are of some 160 more than the plaintext.
	maxCiphertext = 1024
)

// Wrap implements backends.KMS. It is one request. Wrapped.Version is empty,
// since KMS does not tell with an Encrypt which key material it has used.
func (k *KMS) Wrap(ctx context.Context, req backends.WrapRequest) (backends.Wrapped, error) {
	w, err := k.wrap(ctx, req)
	if err != nil {
		return backends.Wrapped{}, backends.Report("wrap", req.Key, err)
	}
	return w, nil
}

func (k *KMS) wrap(ctx context.Context, req backends.WrapRequest) (backends.Wrapped, error) {
	ctx, key, done, err := k.begin(ctx, req.Key)
	if err != nil {
		return backends.Wrapped{}, err
	}
	defer done()
	if n := len(req.Plaintext); n < 1 || n > maxPlaintext {
		return backends.Wrapped{}, backends.Fail(backends.InvalidArgument, "the plaintext is %d bytes, not 1 to %d", n, maxPlaintext)
	}
	if err := checkPairs(req.Pairs); err != nil {
		return backends.Wrapped{}, err
	}
	ciphertext, by, err := k.encrypt(ctx, key, req.Plaintext, req.Pairs)
	if err != nil {
		return backends.Wrapped{}, err
	}
	k.samples.wrapped(key, ciphertext, req.Pairs)
	return backends.Wrapped{
		Provider:   Provider,
		Reference:  by.String(),
		Binding:    backends.BindingAAD,
		Ciphertext: ciphertext,
	}, nil
}

// Unwrap implements backends.KMS. It is one request. A version that is not empty
// must be the key material that KMS says it has used, if KMS says so.
func (k *KMS) Unwrap(ctx context.Context, req backends.UnwrapRequest) ([]byte, error) {
	plaintext, err := k.unwrap(ctx, req)
	if err != nil {
		return nil, backends.Report("unwrap", req.Key, err)
	}
	return plaintext, nil
}

func (k *KMS) unwrap(ctx context.Context, req backends.UnwrapRequest) ([]byte, error) {
	ctx, key, done, err := k.begin(ctx, req.Key)
	if err != nil {
		return nil, err
	}
	defer done()
	made, ok := parseARN(req.Reference)
	switch n := len(req.Ciphertext); {
	case !ok || !key.is(made):
		return nil, backends.Fail(backends.WrongKey, "it is wrapped by %.200q, which is not this key", req.Reference)
	case req.Binding != backends.BindingAAD:
		return nil, backends.Fail(backends.InvalidCiphertext, "KMS binds by associated data, not by %s", req.Binding)
	case n < 1 || n > maxCiphertext:
		return nil, backends.Fail(backends.InvalidCiphertext, "the ciphertext is %d bytes, not 1 to %d", n, maxCiphertext)
	}
	if err := checkPairs(req.Pairs); err != nil {
		return nil, err
	}
	plaintext, err := k.decrypt(ctx, key, req.Version, req.Ciphertext, req.Pairs)
	if err != nil {
		return nil, err
	}
	k.samples.unwrapped(key, req.Ciphertext, req.Pairs)
	return plaintext, nil
}

// checkPairs holds that JSON takes the pairs as they are: it would put other
// characters in place of what is not UTF-8, so that different pairs were one.
func checkPairs(pairs map[string]string) error {
	for name, value := range pairs {
		if !utf8.ValidString(name) || !utf8.ValidString(value) {
			return backends.Fail(backends.InvalidArgument, "the pair %.64q is not UTF-8", name)
		}
	}
	return nil
}
