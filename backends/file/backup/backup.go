// Package backup writes a keyring to an age file and restores it from there.
//
// A backup is a tar archive of the keys' files, encrypted to age recipients. So
// it opens without keybroker, too, if it has to:
//
//	age --decrypt --identity KEY.txt keyring.age | tar --extract --directory DIR
//
// It is as secret as the identities that open it, and no more proof of its origin
// than any age file: whoever knows the recipients can make one, with keys of his
// choice. What nobody but the operator can have replaced is safe to restore; for
// all else, compare the keys' references with those in the envelopes.
//
// Nothing unencrypted touches a disk but the keyring itself. Key bytes are wiped
// in the buffers that are this package's own; what age, tar and the Go heap keep
// of them goes with the process, which therefore should be a short one.
//
// age uses X25519 and ChaCha20-Poly1305, which are not approved by FIPS 140-3:
// under GODEBUG=fips140=only nothing here runs, and ErrFIPS140 says so.
package backup

import (
	"bufio"
	"crypto/fips140"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/keybroker/keybroker/backends/file"
)

var (
	// ErrFIPS140 means that age is not allowed in this process.
	ErrFIPS140 = errors.New("a keyring backup is an age file (X25519, ChaCha20-Poly1305), which GODEBUG=fips140=only does not allow; run this command without it")
	// ErrDamaged means that what was to be restored is not what Write has written.
	ErrDamaged = errors.New("the backup is damaged, or no keyring backup")
	// ErrIdentity means that the backup is for others.
	ErrIdentity = errors.New("none of these identities opens the backup; give one of those that it was made for")
)

// Write writes a backup of all keys of the keyring in dir to w, for whoever has
// the identity of one of the recipients, of which there must be at least one. It
// does not close w. What it has written before an error is no backup, and Restore
// takes it for none.
func Write(w io.Writer, dir string, recipients ...age.Recipient) error {
	if fips140.Enforced() {
		return ErrFIPS140
	}
	if len(recipients) == 0 {
		return errors.New("a backup needs a recipient, or nobody could open it")
	}
	plain, err := archive(dir)
	if err != nil {
		return err
	}
	defer clear(plain)
	sealed, err := age.Encrypt(w, recipients...)
	if err != nil {
		return fmt.Errorf("the backup: %w", err)
	}
	if _, err := sealed.Write(plain); err != nil {
		return fmt.Errorf("the backup: %w", err)
	}
	if err := sealed.Close(); err != nil {
		return fmt.Errorf("the backup: %w", err)
	}
	return nil
}

// Restore puts the keys of the backup in r into dir, which it makes if it is not
// there, and returns those that it has put there. r may be armored.
//
// The whole backup is authenticated before anything is written. Then it is
// restored as file.Import does it: all of it or nothing, never replacing a key,
// leaving those as they are that are there already, and into an empty directory
// or one of the same keyring only.
//
// Errors: ErrIdentity, ErrDamaged, ErrFIPS140 and those of file.Import.
func Restore(dir string, r io.Reader, identities ...age.Identity) ([]file.KeyInfo, error) {
	if fips140.Enforced() {
		return nil, ErrFIPS140
	}
	if len(identities) == 0 {
		return nil, errors.New("a restore needs an identity")
	}
	plain, err := open(r, identities)
	defer clear(plain)
	if err != nil {
		return nil, err
	}
	contents, err := unarchive(plain)
	if err != nil {
		return nil, err
	}
	return file.Import(dir, contents...)
}

// open returns what is encrypted in r. The caller wipes it, also with an error.
func open(r io.Reader, identities []age.Identity) ([]byte, error) {
	buffered := bufio.NewReader(r)
	var source io.Reader = buffered
	if begin, err := buffered.Peek(len(armor.Header)); err == nil && string(begin) == armor.Header {
		source = armor.NewReader(buffered)
	}
	opened, err := age.Decrypt(source, identities...)
	var foreign *age.NoIdentityMatchError
	switch {
	case errors.As(err, &foreign):
		return nil, ErrIdentity
	case err != nil:
		return nil, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	plain, err := readAll(opened)
	if err != nil {
		return plain, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	return plain, nil
}

// readAll is io.ReadAll for at most maxPlain bytes, and wipes what it outgrows.
// The caller wipes what it returns, also with an error.
func readAll(r io.Reader) ([]byte, error) {
	b := make([]byte, 0, 64<<10)
	for {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case errors.Is(err, io.EOF):
			return b, nil
		case err != nil:
			return b, err
		case len(b) > maxPlain:
			return b, fmt.Errorf("it holds more than %d bytes", maxPlain)
		case len(b) == cap(b):
			grown := append(make([]byte, 0, 2*cap(b)), b...)
			clear(b)
			b = grown
		}
	}
}
