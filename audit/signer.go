package audit

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// signerName is the name that every signing key has in notes and vkeys.
const signerName = "keybroker.audit"

// privatePrefix begins the text of a private key, so that nobody takes it for the
// public one (golang.org/x/mod/sumdb/note).
const privatePrefix = "PRIVATE+KEY+"

// algEd25519 is Ed25519's number in a note's keys (c2sp.org/signed-note).
const algEd25519 = 1

// signingKey is an Ed25519 key that signs checkpoints. It is a note.Signer.
type signingKey struct {
	private ed25519.PrivateKey
	vkey    string
	hash    uint32
}

func newSigningKey(seed []byte) (*signingKey, error) {
	k := &signingKey{private: ed25519.NewKeyFromSeed(seed)}
	var err error
	if k.vkey, err = note.NewEd25519VerifierKey(signerName, k.private.Public().(ed25519.PublicKey)); err != nil {
		return nil, err
	}
	verifier, err := note.NewVerifier(k.vkey)
	if err != nil {
		return nil, err
	}
	k.hash = verifier.KeyHash()
	return k, nil
}

// Name implements note.Signer.
func (k *signingKey) Name() string { return signerName }

// KeyHash implements note.Signer.
func (k *signingKey) KeyHash() uint32 { return k.hash }

// Sign implements note.Signer.
func (k *signingKey) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(k.private, msg), nil }

// wipe ends the key: nothing can be signed with it any more. What crypto/ed25519 keeps of
// it goes with the garbage.
func (k *signingKey) wipe() { clear(k.private) }

// text is the key as its file holds it: the form of note.GenerateKey, and a newline.
func (k *signingKey) text() []byte {
	data := append([]byte{algEd25519}, k.private[:ed25519.SeedSize]...) // Seed copies, too
	defer clear(data)
	const size = 128 // more than it takes: what grew would leave a copy behind
	text := fmt.Appendf(make([]byte, 0, size), "%s%s+%08x+", privatePrefix, signerName, k.hash)
	text = base64.StdEncoding.AppendEncode(text, data)
	return append(text, '\n')
}

// parseSigningKey reads what text writes. It quotes nothing of it.
func parseSigningKey(text []byte) (*signingKey, error) {
	wrong := errors.New("it holds no signing key of an audit log")
	text = bytes.TrimSuffix(text, []byte("\n"))
	rest, ok := bytes.CutPrefix(text, []byte(privatePrefix+signerName+"+"))
	_, encoded, found := bytes.Cut(rest, []byte("+"))
	if !ok || !found {
		return nil, wrong
	}
	data := make([]byte, base64.StdEncoding.DecodedLen(len(encoded)))
	defer clear(data)
	n, err := base64.StdEncoding.Strict().Decode(data, encoded)
	if err != nil || n != 1+ed25519.SeedSize || data[0] != algEd25519 {
		return nil, wrong
	}
	k, err := newSigningKey(data[1:n])
	if err != nil {
		return nil, err
	}
	written := k.text()
	defer clear(written)
	if !bytes.Equal(bytes.TrimSuffix(written, []byte("\n")), text) {
		k.wipe()
		return nil, wrong
	}
	return k, nil
}

// keyStore keeps the signing key in a file, and, while one follows another, the next
// one in a second file beside it.
type keyStore struct {
	sys  system
	path string
}

func (s keyStore) next() string { return s.path + ".next" }

// load returns the key in the file at path, fs.ErrNotExist if there is none.
func (s keyStore) load(path string) (*signingKey, error) {
	f, err := s.sys.openRegular(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if ofAnother(info) {
		return nil, fmt.Errorf("the audit log's signing key %s belongs to another user, who may sign what he likes: chown it to the broker's user, then rotate it (keybroker audit key rotate)", path)
	}
	if mode := info.Mode(); mode.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("the audit log's signing key %s: others may read it (mode %04o), and sign what they like: chmod 0600 %s, then rotate it (keybroker audit key rotate)", path, mode.Perm(), path)
	}
	text, err := io.ReadAll(io.LimitReader(f, 1<<10))
	defer clear(text)
	if err != nil {
		return nil, err
	}
	k, err := parseSigningKey(text)
	if err != nil {
		return nil, fmt.Errorf("the audit log's signing key %s: %w; move it away, and a new one is made, which the log says", path, err)
	}
	return k, nil
}

// create makes a key in a file of its own at path.
func (s keyStore) create(path string, random io.Reader) (*signingKey, error) {
	var seed [ed25519.SeedSize]byte
	defer clear(seed[:])
	if _, err := io.ReadFull(random, seed[:]); err != nil {
		return nil, fmt.Errorf("a signing key for the audit log: %w", err)
	}
	k, err := newSigningKey(seed[:])
	if err != nil {
		return nil, err
	}
	text := k.text()
	defer clear(text)
	if err := s.sys.store(path, text, 0o600); err != nil {
		k.wipe()
		return nil, fmt.Errorf("the audit log's signing key: %w", err)
	}
	return k, nil
}

// succeed puts the next key in the present one's place, also if a former attempt had
// come half-way. Whoever reads the disk after it finds the old one overwritten, as far
// as the file system writes in place.
func (s keyStore) succeed() error {
	_, err := os.Lstat(s.next())
	if err == nil {
		if err := s.overwrite(); err != nil {
			return fmt.Errorf("wipe the audit log's former signing key: %w", err)
		}
		err = s.sys.rename(s.next(), s.path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.sys.syncPath(filepath.Dir(s.path))
}

// overwrite fills the present key's file with NUL bytes.
func (s keyStore) overwrite() error {
	f, err := s.sys.open(s.path, os.O_WRONLY|noFollow, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		_, err = s.sys.write(f, make([]byte, info.Size()))
	}
	if err == nil {
		err = s.sys.sync(f)
	}
	return errors.Join(err, f.Close())
}

// find returns the key that signs the log, where signer is what its live file says of
// that; empty: nothing. If there is none, it is made.
func (s keyStore) find(signer string, random io.Reader) (k *signingKey, created bool, err error) {
	next, err := s.load(s.next())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, false, err
	}
	if next != nil && next.vkey == signer {
		// The process ended between the rotation and what follows it.
		return next, false, s.succeed()
	}
	if next != nil {
		// The rotation that it was for did not take place.
		next.wipe()
		if err := s.sys.remove(s.next()); err != nil {
			return nil, false, err
		}
	}
	k, err = s.load(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		k, err = s.create(s.path, random)
		return k, true, err
	}
	return k, false, err
}

// besideKey is the path of the file with the last checkpoint: that of the signing key
// with another ending.
func besideKey(key string) string { return strings.TrimSuffix(key, ".key") + ".checkpoint" }
