package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// The lengths of an access key's secret, in characters. AWS's own have 40.
const (
	MinSecretKey = 32
	MaxSecretKey = 1024
)

var errSecretKey = fmt.Errorf("a secret that is no text of %d to %d characters without spaces", MinSecretKey, MaxSecretKey)

// ReadSecretKey reads the secret of an access key: all of the file but one newline
// at its end. It is MinSecretKey to MaxSecretKey characters, each a byte that ASCII
// has a sign for: what a client could not have in its configuration, such as the
// carriage return of another editor, would only be found by signatures that do not
// match. The secret is the caller's to wipe; no error holds any of it.
//
// It does not look at the file's permissions, which Load has done.
func ReadSecretKey(path string) ([]byte, error) {
	// A named pipe would else block until someone writes to it.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	buf := make([]byte, MaxSecretKey+2)
	n, err := io.ReadFull(f, buf)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		clear(buf)
		return nil, err
	}
	secret := bytes.TrimSuffix(buf[:n], []byte("\n"))
	if len(secret) < MinSecretKey || len(secret) > MaxSecretKey || bytes.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }) {
		clear(buf)
		return nil, fmt.Errorf("%s: %w", path, errSecretKey)
	}
	return secret, nil
}

// wrongSecretKey says what is wrong with a file of a secret and what would be
// right, or nothing.
func wrongSecretKey(path string) (found, want string) {
	secret, err := ReadSecretKey(path)
	clear(secret)
	switch {
	case errors.Is(err, errSecretKey):
		return fmt.Sprintf("%s, with %v", path, errSecretKey), "32 random bytes, as `openssl rand -hex 32` prints them"
	case err != nil:
		return path + ": " + reason(err), "a file that the broker's user may read"
	}
	return "", ""
}
