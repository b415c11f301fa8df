package verify_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/audit/verify"
)

// told are the pairs that a KMS is told of a record.
func told(log string, seq uint64, hash string) map[string]string {
	return map[string]string{
		"keybroker:audit-log": log, "keybroker:audit-seq": fmt.Sprint(seq), "keybroker:audit-head": hash, "keybroker:audit-node": "n1",
	}
}

// canonical is the encoding of pairs by docs/envelope.md, in base64.
func canonical(pairs map[string]string) string {
	var names []string
	for name := range pairs {
		names = append(names, name)
	}
	slices.Sort(names)
	b := binary.BigEndian.AppendUint32(nil, uint32(len(names)))
	for _, name := range names {
		for _, s := range []string{name, pairs[name]} {
			b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
			b = append(b, s...)
		}
	}
	return base64.StdEncoding.EncodeToString(b)
}

func inJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

type object = map[string]any

// vaultEntry is a line of a Vault audit device, as Vault 1.21 writes it, shortened.
func vaultEntry(kind, failure, path, associated string) string {
	e := object{
		"time": "2026-01-02T03:04:05.000000006Z", "type": kind,
		"request": object{
			"id": "1", "operation": "update", "mount_type": "transit", "path": path,
			"data": object{"associated_data": associated, "plaintext": "hmac-sha256:aa"},
		},
		"response": object{"mount_type": "transit", "data": object{"ciphertext": "hmac-sha256:bb"}},
	}
	if failure != "" {
		e["error"] = failure
	}
	return inJSON(e) + "\n"
}

func vaultEntries(associated string) string {
	return vaultEntry("request", "", "transit/encrypt/audit", associated) + vaultEntry("response", "", "transit/encrypt/audit", associated)
}

// cloudTrailEvent is an event of AWS CloudTrail, shortened.
func cloudTrailEvent(name, failure string, pairs map[string]string) object {
	e := object{
		"eventVersion": "1.11", "eventSource": "kms.amazonaws.com", "eventName": name,
		"requestParameters": object{"keyId": "arn:aws:kms:eu-central-1:123456789012:key/1", "encryptionContext": pairs, "encryptionAlgorithm": "SYMMETRIC_DEFAULT"},
		"responseElements":  nil,
	}
	if failure != "" {
		e["errorCode"], e["requestParameters"] = failure, object{"encryptionContext": pairs}
	}
	return e
}

func readAnchors(t *testing.T, text string) *verify.Anchors {
	t.Helper()
	a, err := verify.ReadAnchors(t.Context(), "outside.log", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Whatever form a place outside keeps heads in, they are found, and those of other logs
// and all else are passed over.
func TestAnchorsAreFound(t *testing.T) {
	j := signedSample()
	paths := j.write(t)
	line := func(seq uint64) string { return j.lines[string("abc"[(seq-1)/10])][(seq-1)%10] }
	pairs := func(seq uint64) map[string]string { return told(logID, seq, hashOf(line(seq))) }
	signed := func(seq uint64) string {
		return statement{log: logID, seq: seq, hash: hashOf(line(seq))}.signed(newSigner(byte((seq-1)/10 + 1)))
	}
	other := statement{log: otherID, seq: 7, hash: hashOf(line(7))}.signed(newSigner(9))
	witnessed := statement{log: logID, seq: 25, hash: hashOf(line(25))}.signed(newSigner(3), newSignerNamed("witness.example.com", 4))
	zipped := func(text string) string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = w.Write([]byte(text))
		_ = w.Close()
		return b.String()
	}
	trail := inJSON(object{"Records": []any{
		cloudTrailEvent("Encrypt", "", pairs(5)), cloudTrailEvent("Encrypt", "", told(otherID, 5, hashOf(line(5)))),
		cloudTrailEvent("Encrypt", "", map[string]string{"tenant": "x"}), cloudTrailEvent("Encrypt", "", pairs(25)),
		object{"eventSource": "s3.amazonaws.com", "eventName": "GetObject", "requestParameters": nil},
	}})
	for name, text := range map[string]string{
		"notes":              signed(5) + other + signed(25),
		"notes, apart":       "\n\n" + signed(5) + "\n" + other + "\n\nreceived 12:00\n" + signed(25) + "end",
		"with a witness":     signed(5) + witnessed,
		"strings in lines":   inJSON(signed(5)) + "\n" + inJSON(other) + "\n" + inJSON(signed(25)) + "\n",
		"members in lines":   inJSON(object{"at": 1, "body": signed(5)}) + "\n" + inJSON(object{"at": 2, "body": object{"text": signed(25)}}) + "\n",
		"a list":             inJSON([]string{signed(5), signed(25)}),
		"CloudTrail":         trail,
		"CloudTrail, zipped": zipped(trail),
		"CloudTrail, looked up": inJSON(object{"Events": []any{
			object{"EventName": "Encrypt", "CloudTrailEvent": inJSON(cloudTrailEvent("Encrypt", "", pairs(5)))},
			object{"EventName": "Encrypt", "CloudTrailEvent": inJSON(cloudTrailEvent("Encrypt", "", pairs(25)))},
		}}),
		"Vault": vaultEntries("hmac-sha256:00") + vaultEntries(canonical(pairs(5))) + vaultEntries(canonical(map[string]string{"keybroker:key": "tikv"})) +
			vaultEntries(canonical(told(otherID, 5, hashOf(line(5))))) + vaultEntries("") + vaultEntries(canonical(pairs(25))),
	} {
		t.Run(name, func(t *testing.T) {
			r := check(t, paths, verify.Options{Anchors: []*verify.Anchors{readAnchors(t, text)}})
			if !r.OK() || r.Anchored.Heads != 2 || r.Anchored.Older != 0 || r.Anchored.Latest.Seq != 25 {
				t.Errorf("%+v\n%s", r.Anchored, strings.Join(found(r.Problems), "\n"))
			}
			if want := fmt.Sprintf("%x", r.Anchored.Latest.Hash); want != hashOf(line(25)) {
				t.Errorf("the latest has the hash %s", want)
			}
		})
	}
}

// What the log has not, or has otherwise, is a problem; so is a place that has nothing
// of the log.
func TestAnchorsThatTheLogBelies(t *testing.T) {
	j := signedSample()
	paths := j.write(t)
	line := func(seq uint64) string { return j.lines[string("abc"[(seq-1)/10])][(seq-1)%10] }
	pairs := func(seq uint64) map[string]string { return told(logID, seq, hashOf(line(seq))) }
	zero := strings.Repeat("0", 64)
	good := vaultEntries(canonical(pairs(25)))
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"another hash":    {good + vaultEntries(canonical(told(logID, 5, zero))), []string{"a:5 seq 5: anchored in outside.log"}},
		"removed records": {vaultEntries(canonical(told(logID, 31, zero))), []string{"c:0 seq 31: the log ends with record 30, and record 31 is anchored in outside.log"}},
		"another signer": {
			statement{log: logID, seq: 5, hash: hashOf(line(5))}.signed(newSigner(2)),
			[]string{"outside.log:0 seq 5: the key that signed the log at that record has not signed it"},
		},
		"nothing":     {"", []string{"outside.log:0 seq 0: it has no head of this log, whose id is \"" + logID}},
		"other logs":  {vaultEntries(canonical(told(otherID, 5, zero))), []string{"outside.log:0 seq 0: whose id is \"" + logID + "\", and 1 of others"}},
		"hidden":      {vaultEntries("hmac-sha256:00"), []string{"outside.log:0 seq 0: of 1 calls it hides the associated data: vault secrets tune"}},
		"a half note": {good[:0] + statement{log: logID, seq: 5, hash: hashOf(line(5))}.text(), []string{"outside.log:0 seq 0: a checkpoint that cannot be read", "outside.log:0 seq 0: no head of this log"}},
		"half a line": {good + good[:100], []string{"outside.log:0 seq 0: it ends within a JSON value"}},
		"no head":     {good + vaultEntries(canonical(told(logID, 5, "00"))), []string{"outside.log:0 seq 0: that name none"}},
		"no number":   {good + vaultEntries(canonical(told(logID, 0, zero))), []string{"outside.log:0 seq 0: that name none"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := check(t, paths, verify.Options{Anchors: []*verify.Anchors{readAnchors(t, c.text)}})
			expectFindings(t, "problems", r.Problems, c.want)
		})
	}
	t.Run("one of two places", func(t *testing.T) {
		r := check(t, paths, verify.Options{Anchors: []*verify.Anchors{readAnchors(t, good), readAnchors(t, "")}})
		expectFindings(t, "problems", r.Problems, []string{"outside.log:0 seq 0: it has no head of this log"})
	})
}

// Calls that a KMS refused, and those that are no encryption, anybody could have made:
// they count for nothing.
func TestAnchorsThatAnybodyCouldMake(t *testing.T) {
	j := signedSample()
	paths := j.write(t)
	forged := told(logID, 5, strings.Repeat("0", 64))
	good := told(logID, 25, hashOf(j.lines["c"][4]))
	for name, text := range map[string]string{
		"Vault": vaultEntries(canonical(good)) + vaultEntry("request", "", "transit/encrypt/audit", canonical(forged)) +
			vaultEntry("response", "1 error occurred:\n\t* permission denied\n\n", "transit/encrypt/audit", canonical(forged)) +
			vaultEntry("response", "", "secret/data/x", canonical(forged)),
		"CloudTrail": inJSON(object{"Records": []any{
			cloudTrailEvent("Encrypt", "", good), cloudTrailEvent("Encrypt", "AccessDenied", forged), cloudTrailEvent("Decrypt", "", forged),
		}}),
	} {
		t.Run(name, func(t *testing.T) {
			r := check(t, paths, verify.Options{Anchors: []*verify.Anchors{readAnchors(t, text)}})
			if !r.OK() || r.Anchored.Heads != 1 {
				t.Errorf("%+v\n%s", r.Anchored, strings.Join(found(r.Problems), "\n"))
			}
		})
	}
}

// Heads are kept for longer than files: those of older records than are there are noted,
// unless that is all there are.
func TestAnchorsOfRecordsThatAreGone(t *testing.T) {
	j := signedSample()
	paths := j.write(t)[1:]
	old := vaultEntries(canonical(told(logID, 5, hashOf(j.lines["a"][4]))))
	r := check(t, paths, verify.Options{Anchors: []*verify.Anchors{readAnchors(t, old+vaultEntries(canonical(told(logID, 25, hashOf(j.lines["c"][4])))))}})
	if !r.OK() || r.Anchored.Heads != 2 || r.Anchored.Older != 1 {
		t.Errorf("%+v\n%s", r.Anchored, strings.Join(found(r.Problems), "\n"))
	}
	if notes := strings.Join(found(r.Notes), "\n"); !strings.Contains(notes, "1 of 2 heads that are anchored could not be compared") {
		t.Errorf("notes:\n%s", notes)
	}
	r = check(t, paths, verify.Options{Anchors: []*verify.Anchors{readAnchors(t, old)}})
	expectFindings(t, "problems", r.Problems, []string{"c:0 seq 0: nothing could be compared"})
}

func TestAnchorsThatCannotBeRead(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON":     `{"a": 1} {"b": nothing}`,
		"damaged":     "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x00garbage",
		"not even so": "\x1f\x8b",
	} {
		if a, err := verify.ReadAnchors(t.Context(), "outside.log", strings.NewReader(text)); err == nil {
			t.Errorf("%s: read as %+v", name, a)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := verify.ReadAnchors(ctx, "outside.log", strings.NewReader("{}")); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end of ctx: %v", err)
	}
}

// No input makes it panic or say that a log is anchored which is not.
func FuzzAnchors(f *testing.F) {
	j := signedSample()
	paths := j.write(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := verify.ReadAnchors(t.Context(), "outside.log", bytes.NewReader(text))
		if err != nil {
			return
		}
		r := check(t, paths, verify.Options{Anchors: []*verify.Anchors{a}})
		if r.OK() && !bytes.Contains(text, []byte(logID)) && !bytes.Contains(text, []byte("associated_data")) && !compressed(text) {
			t.Errorf("it passes with %+v", r.Anchored)
		}
	})
}

func compressed(text []byte) bool {
	return bytes.HasPrefix(text, []byte("\x1f\x8b")) || bytes.HasPrefix(text, []byte("\x28\xb5\x2f\xfd"))
}
