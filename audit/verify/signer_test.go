package verify_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/keybroker/keybroker/audit/verify"
)

// signer is a signing key of a broker; it is a note.Signer.
type signer struct {
	note.Verifier // its name and hash
	private       ed25519.PrivateKey
	vkey          string
}

// newSigner makes the same key from the same number.
func newSigner(n byte) *signer {
	return newSignerNamed("keybroker.audit", n)
}

func newSignerNamed(name string, n byte) *signer {
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
	vkey, err := note.NewEd25519VerifierKey(name, private.Public().(ed25519.PublicKey))
	if err != nil {
		panic(err)
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		panic(err)
	}
	return &signer{verifier, private, vkey}
}

func (s *signer) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.private, msg), nil }

func (s *signer) key(t testing.TB) *verify.Key {
	t.Helper()
	k, err := verify.ParseKey(s.vkey)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// statement is what stands in a checkpoint.
type statement struct {
	log  string
	seq  uint64
	hash string // in hex
	more string // lines after the fifth
}

// head is a statement of the last record.
func (c *chain) head() statement { return statement{log: c.id, seq: c.seq, hash: c.prev} }

func (s statement) text() string {
	hash, err := hex.DecodeString(s.hash)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("keybroker.audit/%s\n%d\n%s\ntime 2026-01-02T03:04:05.000000006Z\nnode n1\n%s",
		s.log, s.seq, base64.StdEncoding.EncodeToString(hash), s.more)
}

func (s statement) signed(by ...note.Signer) string { return signText(s.text(), by...) }

func signText(text string, by ...note.Signer) string {
	b, err := note.Sign(&note.Note{Text: text}, by...)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// noteMembers are the members of a record with a checkpoint.
func noteMembers(vkey, text string) string {
	return `"checkpoint":"` + strings.ReplaceAll(text, "\n", `\n`) + `","public_key":"` + vkey + `"`
}

func (c *chain) createSigned(by *signer) string {
	return c.line(`"event":"create","outcome":"ok","log":"` + c.id + `","public_key":"` + by.vkey + `"`)
}

func (c *chain) checkpoint(by *signer) string { return c.checkpointOf(by.vkey, c.head().signed(by)) }

func (c *chain) checkpointOf(vkey, text string) string {
	return c.line(`"event":"checkpoint","outcome":"ok",` + noteMembers(vkey, text))
}

// rotate begins a file; next signs it.
func (c *chain) rotate(by, next *signer) string {
	at := c.head()
	at.more = "next " + next.vkey + "\n"
	return c.rotateOf(by.vkey, at.signed(by))
}

func (c *chain) rotateOf(vkey, text string) string {
	return c.line(fmt.Sprintf(`"event":"rotate","outcome":"ok","reason":"size","log":%q,"former":{"file":"f","synced_seq":%d},`, c.id, c.seq) + noteMembers(vkey, text))
}

// signedSample is three files of ten records; keys 1, 2 and 3 sign them, each its
// sixth and its last record. The first record after a file is 11, 21.
func signedSample() *journal {
	j, c := &journal{lines: map[string][]string{}}, newChain(logID)
	for n, name := range []string{"a", "b", "c"} {
		by := newSigner(byte(n + 1))
		if n == 0 {
			j.add(name, c.createSigned(by))
		} else {
			j.add(name, c.rotate(newSigner(byte(n)), by))
		}
		for i := range 9 {
			if i == 4 || i == 8 {
				j.add(name, c.checkpoint(by))
			} else {
				j.add(name, c.unwrap())
			}
		}
	}
	return j
}

// external is a checkpoint of the record at a line of the journal.
func external(t testing.TB, seq uint64, line string, by ...note.Signer) *verify.Checkpoint {
	t.Helper()
	return parsed(t, statement{log: logID, seq: seq, hash: hashOf(line)}.signed(by...))
}

func parsed(t testing.TB, text string) *verify.Checkpoint {
	t.Helper()
	cp, err := verify.ParseCheckpoint("cp.txt", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cp
}
