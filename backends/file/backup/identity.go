package backup

import (
	"fmt"
	"io"
	"os"

	"filippo.io/age"

	"github.com/keybroker/keybroker/backends/file"
)

// ParseRecipients reads age recipients (age1..., age1pq1...), one a line. Empty
// lines and those that begin with # are ignored; none at all is an error.
func ParseRecipients(r io.Reader) ([]age.Recipient, error) {
	recipients, err := age.ParseRecipients(r)
	if err != nil {
		return nil, fmt.Errorf("%v; want age recipients, one a line, as `age-keygen -y` prints them (age1...)", err)
	}
	return recipients, nil
}

// ParseIdentities reads age identities (AGE-SECRET-KEY-1...), one a line, as
// age-keygen writes them. Empty lines and those that begin with # are ignored;
// none at all is an error. Errors quote nothing of what was read.
func ParseIdentities(r io.Reader) ([]age.Identity, error) {
	identities, err := age.ParseIdentities(r)
	if err != nil {
		// Its cause could hold a part of a secret.
		return nil, fmt.Errorf("no age identities: want a file of age-keygen, with one a line (AGE-SECRET-KEY-...)")
	}
	return identities, nil
}

// ReadIdentities reads the identities in a file, as ParseIdentities does. A
// regular file that others may read or write is refused with a
// *file.PermissionError.
func ReadIdentities(path string) ([]age.Identity, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode(); mode.IsRegular() && mode.Perm()&0o077 != 0 {
		return nil, &file.PermissionError{Path: path, Why: fmt.Sprintf("others may use the identities in it (mode %04o); run: chmod 0600 %s", mode.Perm(), path)}
	}
	identities, err := ParseIdentities(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return identities, nil
}
