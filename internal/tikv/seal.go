package tikv

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
)

// The names in Content.Metadata (master_key/metadata.rs).
const (
	MetaMethod           = "method"
	MetaIV               = "iv"
	MetaTag              = "aes_gcm_tag"
	MetaKMSVendor        = "kms_vendor"
	MetaKMSCiphertextKey = "kms_ciphertext_key"
)

const (
	// MethodAES256GCM is the MetaMethod of what is encrypted.
	MethodAES256GCM = "aes256-gcm"
	// MethodPlaintext is the MetaMethod of what is not.
	MethodPlaintext = "plaintext"
	// VendorAWS is the MetaKMSVendor of every store whose master-key has the vendor
	// "aws" or none: in other letters there than in the configuration.
	VendorAWS = "AWS"
	// KeySize is the size in bytes of the key that Seal and Open take.
	KeySize = 32
)

const (
	ivSize  = 12
	tagSize = 16
)

// ErrWrongKey is what Open returns, wrapped, if the key is not the one of Seal, or
// the content was changed. TiKV tries its previous-master-key then.
var ErrWrongKey = errors.New("wrong key")

// Seal encrypts plaintext with key, of KeySize bytes, as a store does whose
// master-key is in a KMS: blob is what the KMS returned with key, and not empty.
// It keeps none of its arguments, and makes the nonce itself.
func Seal(key, plaintext, blob []byte) (Content, error) {
	if len(blob) == 0 {
		return Content{}, errors.New("there is no wrapped key to keep beside the content")
	}
	aead, err := gcm(key)
	if err != nil {
		return Content{}, err
	}
	// Nonce, ciphertext, tag.
	sealed := aead.Seal(nil, nil, plaintext, nil)
	end := len(sealed) - tagSize
	return Content{
		Metadata: map[string][]byte{
			MetaMethod:           []byte(MethodAES256GCM),
			MetaIV:               bytes.Clone(sealed[:ivSize]),
			MetaTag:              bytes.Clone(sealed[end:]),
			MetaKMSVendor:        []byte(VendorAWS),
			MetaKMSCiphertextKey: bytes.Clone(blob),
		},
		Ciphertext: bytes.Clone(sealed[ivSize:end]),
	}, nil
}

// Open returns the plaintext of c, which the caller owns, with the key of KeySize
// bytes that the KMS gives for c.KMS's blob. The error is an ErrWrongKey, or an
// ErrCorrupted if c is not encrypted as TiKV does it.
func (c Content) Open(key []byte) ([]byte, error) {
	if method := string(c.Metadata[MetaMethod]); method != MethodAES256GCM {
		return nil, fmt.Errorf("%w: its method is %.32q, want %q", ErrCorrupted, method, MethodAES256GCM)
	}
	iv, tag := c.Metadata[MetaIV], c.Metadata[MetaTag]
	if len(iv) != ivSize || len(tag) != tagSize {
		return nil, fmt.Errorf("%w: a nonce of %d bytes and a tag of %d, want %d and %d", ErrCorrupted, len(iv), len(tag), ivSize, tagSize)
	}
	aead, err := gcm(key)
	if err != nil {
		return nil, err
	}
	plaintext, err := aead.Open(nil, nil, bytes.Join([][]byte{iv, c.Ciphertext, tag}, nil), nil)
	if err != nil {
		return nil, fmt.Errorf("%w, or the content was changed", ErrWrongKey)
	}
	return plaintext, nil
}

// KMS returns the vendor of the KMS that made the key of c, as TiKV writes it, and
// the wrapped key that it gave with it; both are c's own. Not ok: the master key
// was in no KMS.
func (c Content) KMS() (vendor string, blob []byte, ok bool) {
	v, hasVendor := c.Metadata[MetaKMSVendor]
	blob, hasBlob := c.Metadata[MetaKMSCiphertextKey]
	return string(v), blob, hasVendor && hasBlob
}

func gcm(key []byte) (cipher.AEAD, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("a key of %d bytes, want %d", len(key), KeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
