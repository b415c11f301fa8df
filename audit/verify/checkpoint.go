package verify

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

const (
	// keyName is the name of every key that signs an audit log, and what the
	// first line of a checkpoint begins with.
	keyName   = "keybroker.audit"
	algorithm = 1 // Ed25519, in front of the key's bytes

	// MaxCheckpoint is how many bytes a checkpoint may have. One that a broker
	// writes has a twentieth of it; witnesses may have added signatures.
	MaxCheckpoint = 16 << 10
)

// Key is a public key that signs checkpoints.
type Key struct {
	vkey     string
	id       string // eight hex digits
	verifier note.Verifier
}

// ParseKey reads a key in the form that a signed note's verifiers have:
// keybroker.audit, "+", eight hex digits, "+", base64.
func ParseKey(vkey string) (*Key, error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, fmt.Errorf("it is no key as keybroker writes it: %w", err)
	}
	if verifier.Name() != keyName {
		return nil, fmt.Errorf("it is a key of %.64q, and those of an audit log are of %s", verifier.Name(), keyName)
	}
	// A key is compared by its text, so there must be one text for it.
	const parts = 3 // the last of which may hold further pluses
	raw, err := base64.StdEncoding.DecodeString(strings.SplitN(vkey, "+", parts)[parts-1])
	if err != nil || len(raw) != 1+ed25519.PublicKeySize || raw[0] != algorithm {
		return nil, errors.New("it is no Ed25519 key as keybroker writes it")
	}
	if canonical, err := note.NewEd25519VerifierKey(keyName, raw[1:]); err != nil || canonical != vkey {
		return nil, errors.New("it is no Ed25519 key as keybroker writes it")
	}
	return &Key{vkey, fmt.Sprintf("%08x", verifier.KeyHash()), verifier}, nil
}

// String returns the key as ParseKey reads it.
func (k *Key) String() string { return k.vkey }

// ID returns the eight hex digits that stand in the key. Another key can be made
// to have the same.
func (k *Key) ID() string { return k.id }

// Checkpoint is a signed statement that a log has a certain record, as
// docs/audit.md says. That it was parsed proves nothing.
type Checkpoint struct {
	from  string // names it in findings
	text  []byte
	logID string
	head  Head
	time  time.Time
	next  *Key // nil if it names none
}

// ParseCheckpoint reads a checkpoint that was kept outside the log, of at most
// MaxCheckpoint bytes. Findings name it by from.
func ParseCheckpoint(from string, text []byte) (*Checkpoint, error) {
	if len(text) > MaxCheckpoint {
		return nil, fmt.Errorf("it is longer than %d bytes", MaxCheckpoint)
	}
	// Without a key nothing can be verified, so this is the error if it is a note.
	var unverified *note.UnverifiedNoteError
	if _, err := note.Open(text, nil); !errors.As(err, &unverified) {
		return nil, fmt.Errorf("it is no signed note: %w", err)
	}
	c := &Checkpoint{from: from, text: bytes.Clone(text)}
	lines := strings.Split(unverified.Note.Text, "\n") // the last one is empty
	const fixed = 5
	if len(lines) < fixed+1 {
		return nil, errors.New("it lacks lines")
	}
	var ok bool
	if c.logID, ok = strings.CutPrefix(lines[0], keyName+"/"); !ok || !isLogID(c.logID) {
		return nil, errors.New("its first line is not " + keyName + ", a slash and the id of a log")
	}
	seq, err := strconv.ParseUint(lines[1], 10, 64)
	if err != nil || seq == 0 || strconv.FormatUint(seq, 10) != lines[1] {
		return nil, errors.New("its second line is not the number of a record")
	}
	hash, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(hash) != len(c.head.Hash) {
		return nil, errors.New("its third line is not a hash in base64")
	}
	c.head = Head{Seq: seq, Hash: [32]byte(hash)}
	at, ok := strings.CutPrefix(lines[3], "time ")
	if !ok || !isTimeForm([]byte(at)) {
		return nil, errors.New("its fourth line is not a time")
	}
	if c.time, err = time.Parse(timeLayout, at); err != nil {
		return nil, errors.New("its fourth line is not a time")
	}
	if !strings.HasPrefix(lines[4], "node ") {
		return nil, errors.New("its fifth line does not name a node")
	}
	for _, line := range lines[fixed : len(lines)-1] {
		vkey, ok := strings.CutPrefix(line, "next ")
		if !ok {
			continue // of a later version; it is signed as all others are
		}
		if c.next != nil {
			return nil, errors.New("it names two next keys")
		}
		if c.next, err = ParseKey(vkey); err != nil {
			return nil, fmt.Errorf("of the next key that it names: %w", err)
		}
	}
	return c, nil
}

func isLogID(s string) bool {
	const digits = 32
	for i := range len(s) {
		if !isHex(s[i]) {
			return false
		}
	}
	return len(s) == digits
}

// signedBy tells whether k signed c.
func (c *Checkpoint) signedBy(k *Key) bool {
	_, err := note.Open(c.text, note.VerifierList(k.verifier))
	return err == nil
}
