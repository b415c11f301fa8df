package otlp

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// cursor is the last record that the collector has. The zero cursor is before the
// first.
type cursor struct {
	// Log is the log's id; empty if it is not known.
	Log string `json:"log"`
	Seq uint64 `json:"seq"`
	// Hash is in hex, as in the record.
	Hash string `json:"hash"`
}

// loadCursor reads the file at path. None is the zero cursor.
func loadCursor(path string) (cursor, error) {
	var c cursor
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err == nil && (c.Seq == 0 || len(c.Hash) != 2*hashLen) {
		err = errors.New("it names no record")
	}
	if err != nil {
		return cursor{}, fmt.Errorf("the cursor of the audit log's export, %s: %w; without that file, the export begins anew with the oldest record there is", path, err)
	}
	return c, nil
}

// store writes the file at path: whole or not at all, and on disk when it returns.
func (c cursor) store(path string) error {
	err := c.replace(path)
	if err != nil {
		return fmt.Errorf("the cursor of the audit log's export: %w", err)
	}
	return nil
}

func (c cursor) replace(path string) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	fresh := path + ".new"
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(fresh, path); err != nil {
		return err
	}
	return dir.Sync()
}

const hashLen = 32

func hexHash(h [hashLen]byte) string { return hex.EncodeToString(h[:]) }
