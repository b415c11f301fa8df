package verify

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
)

const (
	eventCreate     = "create"
	eventRotate     = "rotate"
	eventCheckpoint = "checkpoint"
	eventAlarm      = "alarm"
)

// signers is who may sign the log, as far as it was read.
type signers struct {
	// given is Options.Key; met, whether it has signed. Until then nobody else
	// vouches for the keys, so a change of them is only noted.
	given *Key
	met   bool
	// current is the key that signs next; nil if it is not known.
	current *Key
	// broken: a key has signed that those before it did not announce, or it
	// cannot be told.
	broken bool
	// waiting are those of known whose record was read before the first key was
	// known, and that this key must have signed.
	waiting []*known
}

// trusted tells whether the current key is of the succession that counts.
func (s *signers) trusted() bool { return !s.broken && (s.given == nil || s.met) }

// begin makes k the first key that is known.
func (s *signers) begin(k *Key) {
	s.current = k
	for _, w := range s.waiting {
		w.key, w.succeeds = k, s.succeeds(k)
	}
	s.waiting = nil
}

// succeeds tells whether k, the current key, is of the succession that counts:
// also given itself is, before it has signed.
func (s *signers) succeeds(k *Key) bool {
	return s.trusted() || !s.met && s.given != nil && s.given.vkey == k.vkey
}

// known is a record that the log is known to have.
type known struct {
	Head
	from       string      // how it is known, as in "which is ... "
	checkpoint *Checkpoint // nil if it is a head
	// anchored: an anchor has it. Older ones than what is there are kept for ever.
	anchored bool
	met      bool
	// key is the one that was current after the record: it must have signed the
	// checkpoint. succeeds is signers.succeeds of it.
	key      *Key
	succeeds bool
}

// compare compares the record seq with what is known of it.
func (c *checker) compare(seq uint64, hash *digest, at Finding) {
	for _, k := range c.known[seq] {
		if want := hex.EncodeToString(k.Hash[:]); want != string(hash[:]) {
			at.What = fmt.Sprintf("its hash is %s, and %s is %s: it, or a record before it, is not the one that was written", hash[:], want, k.from)
			if seq != at.Seq {
				at.What = fmt.Sprintf("it names %s as the hash of record %d, and %s is %s: one of the two is not what was written", hash[:], seq, want, k.from)
			}
			c.problem(at)
		}
		k.met = true
		switch current := c.signers.current; {
		case k.checkpoint == nil:
		case current != nil:
			k.key, k.succeeds = current, c.signers.succeeds(current)
		default:
			c.signers.waiting = append(c.signers.waiting, k)
		}
	}
}

// signature checks what r says of keys, and what it has signed.
func (c *checker) signature(r *record, at Finding) {
	s := &c.signers
	if r.checkpoint == nil {
		switch event := string(r.event); {
		case event == eventCheckpoint:
			at.What = "it is a checkpoint record without a checkpoint"
			c.problem(at)
		case event == eventRotate && s.current != nil:
			at.What = "the log is signed, and this record, which begins a file, has no checkpoint of the one before it"
			c.problem(at)
		case event == eventCreate && r.publicKey != nil:
			k, err := ParseKey(unescape(r.publicKey))
			if err != nil {
				at.What = "of its public key: " + err.Error()
				c.problem(at)
				return
			}
			s.begin(k)
		}
		return
	}
	signer, cp, what := c.signed(r)
	if what != "" {
		at.What = what
		c.problem(at)
		if string(r.event) == eventRotate { // whose word for the next key is worth nothing
			s.current, s.broken = nil, true
		}
		return
	}
	c.succeed(signer, at)
	signed := &c.result.Signed
	if s.trusted() {
		if signed.Checkpoints == 0 {
			signed.First = signer
		}
		if signed.Last == nil || signed.Last.vkey != signer.vkey {
			signed.Keys++
		}
		signed.Checkpoints++
		signed.Seq, signed.Time, signed.Last = r.seq-1, cp.time, signer
	}
	if cp.next != nil {
		s.current = cp.next
	}
	if s.trusted() {
		signed.Current = s.current
	}
}

// signed returns r's checkpoint and who signed it, or what is wrong with it.
func (c *checker) signed(r *record) (signer *Key, cp *Checkpoint, what string) {
	if r.publicKey == nil {
		return nil, nil, "it has a checkpoint and does not say whose"
	}
	signer, err := ParseKey(unescape(r.publicKey))
	if err != nil {
		return nil, nil, "of its public key: " + err.Error()
	}
	cp, err = ParseCheckpoint("", []byte(unescape(r.checkpoint)))
	switch {
	case err != nil:
		return nil, nil, "of its checkpoint: " + err.Error()
	case cp.logID != c.logID:
		return nil, nil, fmt.Sprintf("its checkpoint is of another log, %s", cp.logID)
	case cp.head.Seq != r.seq-1 || hex.EncodeToString(cp.head.Hash[:]) != string(r.prev[:]):
		return nil, nil, fmt.Sprintf("its checkpoint is of record %d with the hash %x, and should be of the record before it", cp.head.Seq, cp.head.Hash)
	case !cp.signedBy(signer):
		return nil, nil, fmt.Sprintf("its checkpoint is not signed by the key %s that it names: it was changed, or somebody made it who has not that key", signer.id)
	case cp.next != nil && string(r.event) != eventRotate:
		return nil, nil, "its checkpoint names a next key, and only that of a rotate record may"
	}
	return signer, cp, ""
}

// succeed makes signer the current key, and reports it if it may not be.
func (c *checker) succeed(signer *Key, at Finding) {
	s := &c.signers
	switch {
	case s.current == nil && !s.broken:
		s.begin(signer)
	case s.current == nil: // which was reported
		s.current = signer
	case s.current.vkey == signer.vkey:
	case s.given != nil && !s.met:
		at.What = fmt.Sprintf("the key %s signs, and the one before it, %s, did not announce it", signer.id, s.current.id)
		c.note(at)
		s.current = signer
	default:
		at.What = fmt.Sprintf("the key %s signs, and should be %s: nothing in the files announces it, so whoever signs here is not known", signer.id, s.current.id)
		c.problem(at)
		s.current, s.broken = signer, true
	}
	if s.given != nil && !s.met && s.given.vkey == signer.vkey {
		s.met, s.broken = true, false
	}
}

// finishSigned holds what of signatures can only be told at the end.
func (c *checker) finishSigned(last string) {
	s := &c.signers
	if s.given != nil && !s.met {
		what := fmt.Sprintf("no checkpoint in the files is signed by the key %s that was given", s.given.id)
		if c.result.FirstSeq > 1 {
			what += ": give the older files too, or a key that signs what is here"
		}
		c.problem(Finding{File: last, What: what})
	}
	for _, k := range c.expected {
		if k.checkpoint == nil || !k.met || k.succeeds && k.checkpoint.signedBy(k.key) {
			continue
		}
		at := Finding{File: k.checkpoint.from, Seq: k.Seq, What: "the key that signed the log at that record has not signed it"}
		switch {
		case k.key == nil:
			at.What = "nothing in the files says which key should have signed it"
		case !k.succeeds:
			at.What = fmt.Sprintf("the key that signed the log at that record, %s, is not one that the key that was given has announced", k.key.id)
			if s.given == nil {
				at.What = fmt.Sprintf("the key that signed the log at that record, %s, is not one that a key before it has announced", k.key.id)
			}
		}
		c.problem(at)
	}
}

// unescape returns the text of a string of a record. It cannot fail: the parser
// has taken it.
func unescape(text []byte) string {
	var s string
	_ = json.Unmarshal(append(append([]byte{'"'}, text...), '"'), &s)
	return s
}
