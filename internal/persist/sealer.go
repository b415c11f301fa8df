package persist

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// Sealer seals the key of a file by something that is not on the disk with it.
type Sealer interface {
	// Seal returns the key, 32 bytes, sealed, in some hundred bytes.
	Seal(key []byte) ([]byte, error)
	// Unseal returns the key of what Seal has returned, here or in a former process.
	// It is the caller's to wipe.
	Unseal(sealed []byte) ([]byte, error)
}

// The lengths of a key file, in bytes.
const (
	MinKeyFile = 32
	MaxKeyFile = 1024
)

// Errors of a KeyFile.
var (
	// ErrKeyFile: the file is too short or too long.
	ErrKeyFile = fmt.Errorf("not a key file of %d to %d bytes", MinKeyFile, MaxKeyFile)
	// ErrAnotherKey: it was sealed by another key file, or is damaged.
	ErrAnotherKey = errors.New("another key file sealed it, or it is damaged")
)

// KeyFile seals by a secret in a file, MinKeyFile to MaxKeyFile bytes of full entropy:
// a credential that systemd decrypts for the unit, as a rule. The file is read for
// each use, and only then.
type KeyFile struct{ Path string }

const (
	saltSize    = 32
	keyFileInfo = "keybroker/v1/sealed-cache-key"
)

// Seal implements Sealer: salt, and the key sealed by AES-256-GCM with a random nonce
// under HKDF-SHA-256 of the secret.
func (k KeyFile) Seal(key []byte) ([]byte, error) {
	sealed := make([]byte, saltSize, saltSize+sealing+len(key))
	if _, err := rand.Read(sealed); err != nil {
		return nil, err
	}
	aead, err := k.aead(sealed)
	if err != nil {
		return nil, err
	}
	return aead.Seal(sealed, nil, key, nil), nil
}

// Unseal implements Sealer. The error is ErrAnotherKey, ErrKeyFile, or the file's.
func (k KeyFile) Unseal(sealed []byte) ([]byte, error) {
	if len(sealed) < saltSize {
		return nil, ErrAnotherKey
	}
	aead, err := k.aead(sealed[:saltSize])
	if err != nil {
		return nil, err
	}
	key, err := aead.Open(nil, nil, sealed[saltSize:], nil)
	if err != nil {
		return nil, ErrAnotherKey
	}
	return key, nil
}

func (k KeyFile) aead(salt []byte) (cipher.AEAD, error) {
	secret, err := k.read()
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	key, err := hkdf.Key(sha256.New, secret, salt, keyFileInfo, keySize)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (k KeyFile) read() ([]byte, error) {
	// A named pipe would else block until someone writes to it.
	f, err := os.OpenFile(k.Path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	buf := make([]byte, MaxKeyFile+1)
	n, err := io.ReadFull(f, buf)
	switch {
	case err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		clear(buf)
		return nil, err
	case n < MinKeyFile || n > MaxKeyFile:
		clear(buf)
		return nil, fmt.Errorf("%s: %w", k.Path, ErrKeyFile)
	}
	return buf[:n], nil
}
