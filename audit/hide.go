package audit

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// hiddenPrefix begins every value of a context that is hidden. A value that begins so
// by itself is replaced by its digest.
const hiddenPrefix = "hmac-sha256:"

// hidingKeySize is the length of the key under which values are hidden, in bytes.
const hidingKeySize = sha256.Size

// hidingKeyPath is where that key is: beside the signing key, or the log, under the same
// name with another ending.
func hidingKeyPath(c *Config, path string) string {
	if c.SigningKey == "" {
		return hidden(path, ".hmac")
	}
	return strings.TrimSuffix(c.SigningKey, ".key") + ".hmac"
}

// hidingKey reads the key at path, and makes it if there is none. It is never replaced:
// what is hidden under another could not be compared.
func (s system) hidingKey(path string, random io.Reader) (key []byte, err error) {
	f, err := s.openRegular(path, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return s.newHidingKey(path, random)
	}
	if err != nil {
		return nil, fmt.Errorf("the key of the audit log under which values are hidden: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if ofAnother(info) {
		return nil, fmt.Errorf("%s, under which values in the audit log are hidden, belongs to another user, who can guess what is hidden: chown it to the broker's user", path)
	}
	if mode := info.Mode(); mode.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s, under which values in the audit log are hidden: others may read it (mode %04o), and guess what is hidden: chmod 0600 %s", path, mode.Perm(), path)
	}
	text, err := io.ReadAll(io.LimitReader(f, 1<<10))
	defer clear(text)
	if err != nil {
		return nil, err
	}
	key = make([]byte, hex.DecodedLen(len(text)))
	n, err := hex.Decode(key, bytes.TrimSuffix(text, []byte("\n")))
	if err != nil || n != hidingKeySize {
		clear(key)
		return nil, fmt.Errorf("%s, under which values in the audit log are hidden, does not hold a key of %d hex digits; put it back from a backup, or move it away: then a new one is made, and what was hidden before can no longer be compared with what comes", path, 2*hidingKeySize)
	}
	return key[:n], nil
}

func (s system) newHidingKey(path string, random io.Reader) ([]byte, error) {
	key := make([]byte, hidingKeySize)
	if _, err := io.ReadFull(random, key); err != nil {
		return nil, fmt.Errorf("a key for hiding values in the audit log: %w", err)
	}
	text := append(hex.AppendEncode(nil, key), '\n')
	defer clear(text)
	if err := s.store(path, text, 0o600); err != nil {
		return nil, fmt.Errorf("the key of the audit log under which values are hidden: %w", err)
	}
	return key, nil
}

// hide returns pairs with each value hidden.
func (l *Log) hide(pairs map[string]string) map[string]string {
	hidden := make(map[string]string, len(pairs))
	mac := hmac.New(sha256.New, l.hidingKey)
	for name, value := range pairs {
		mac.Reset()
		mac.Write([]byte(value))
		hidden[name] = hiddenPrefix + hex.EncodeToString(mac.Sum(nil))
	}
	return hidden
}
