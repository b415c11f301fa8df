package awsapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/keybroker/keybroker/broker/peer"
)

// allMembers are those of any operation.
func allMembers() []string {
	members := map[string]struct{}{}
	for _, op := range operations() {
		for _, m := range op.members {
			members[m] = struct{}{}
		}
	}
	return slices.Sorted(maps.Keys(members))
}

// FuzzDecode holds decode to encoding/json: what it takes, encoding/json takes too,
// and reads the same in it.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{}`, ` {"KeyId":"tikv","KeySpec":"AES_256"} `, `{"KeyId":null}`, `{"keyid":"x"}`, `{"KeyId":"a","KeyId":"b"}`,
		`{"EncryptionContext":{"a":"\ud83d\ude00","b":"\u00e9\/\b\f\n\r\t\"\\"},"GrantTokens":["x","y"]}`,
		`{"CiphertextBlob":"+/8=","Plaintext":"AA==","DryRun":true,"NumberOfBytes":-0,"Limit":2147483647}`,
		`{"x":[1,-0.5e+3,null,true,false,"x",{"y":{}}]}`, `{"a":"\ud83d"}`, "{\"a\":\"\xff\"}", `{"a":01}`, `{"a":1e}`, `{"Plaintext":"A\nA=="}`,
		`{"Recipient":{"AttestationDocument":""},"Marker":"x"}`, `{"a":`, `[`, `{"a":"\`, `{"a":"\u12`, `{"a":1,}`,
	} {
		f.Add([]byte(seed))
	}
	members := allMembers()
	f.Fuzz(func(t *testing.T, body []byte) {
		kept := bytes.Clone(body)
		in, err := decode(body, members)
		if !bytes.Equal(body, kept) {
			t.Fatal("the body was changed")
		}
		if err != nil {
			if in != nil {
				t.Fatal("both a result and an error")
			}
			return
		}
		if !utf8.Valid(body) || !json.Valid(body) {
			t.Fatalf("encoding/json does not take it: %q", body)
		}
		var want struct {
			KeyId, Marker             *string
			NumberOfBytes, Limit      *int
			EncryptionContext         map[string]string
			GrantTokens               []string
			CiphertextBlob, Plaintext *string
			DryRun                    bool
		}
		if err := json.Unmarshal(body, &want); err != nil {
			t.Fatalf("encoding/json: %v: %q", err, body)
		}
		same(t, "KeyId", in.keyID, want.KeyId)
		same(t, "Marker", in.marker, want.Marker)
		same(t, "NumberOfBytes", in.numberOfBytes, want.NumberOfBytes)
		same(t, "Limit", in.limit, want.Limit)
		if !maps.Equal(in.context, want.EncryptionContext) || !slices.Equal(in.grantTokens, want.GrantTokens) || in.dryRun != want.DryRun {
			t.Fatalf("%+v, want %+v", in, want)
		}
		for _, blob := range []struct {
			got  []byte
			want *string
		}{{in.ciphertext, want.CiphertextBlob}, {in.plaintext, want.Plaintext}} {
			if (blob.got == nil) != (blob.want == nil) || blob.want != nil && base64.StdEncoding.EncodeToString(blob.got) != *blob.want {
				t.Fatalf("blob %q, want %v", blob.got, blob.want)
			}
		}
		in.wipe()
		if slices.ContainsFunc(in.plaintext, func(b byte) bool { return b != 0 }) {
			t.Fatal("the plaintext was not wiped")
		}
	})
}

func same[T comparable](t *testing.T, name string, got, want *T) {
	t.Helper()
	if (got == nil) != (want == nil) || got != nil && *got != *want {
		t.Fatalf("%s is %v, want %v", name, got, want)
	}
}

// TestReplyIsJSON: whatever a message holds, clients can read it.
func TestReplyIsJSON(t *testing.T) {
	for _, message := range []string{"", "plain", "\x00\x1f\"\\/ä\u2028\U0001f600", "\xff\xfe", string(bytes.Repeat([]byte("ä"), 5000))} {
		var got struct {
			Type    string `json:"__type"`
			Message string
		}
		p := failed(refuse(validation, message))
		if err := json.Unmarshal(p.body, &got); err != nil {
			t.Fatalf("%v: %q", err, p.body)
		}
		if got.Message != text(message) || got.Type != "ValidationException" || len(got.Message) > maxMessage {
			t.Errorf("%.50q became %.50q", message, got.Message)
		}
	}
}

// TestReplyLeavesNoCopy: a secret is only ever in the buffer that wipe wipes.
func TestReplyLeavesNoCopy(t *testing.T) {
	for size := range 1100 {
		secret := bytes.Repeat([]byte{0xff}, size)
		p := newReply()
		p.blob("CiphertextBlob", secret[:size/2])
		p = p.endWithPlaintext(secret)
		body := p.body
		if !json.Valid(body) {
			t.Fatalf("%q", body)
		}
		p.wipe()
		if slices.ContainsFunc(body[:cap(body)], func(b byte) bool { return b != 0 }) {
			t.Fatalf("%d bytes: something is left", size)
		}
	}
}

// TestForget is in this package, since no client sees what net/http's buffers hold.
func TestForget(t *testing.T) {
	buffer := []byte("headers\r\n\r\n{body}POST next")
	c := &httpConn{buffer: buffer}
	c.forget([]byte("{body}"))
	if want := "headers\r\n\r\n\x00\x00\x00\x00\x00\x00POST next"; string(buffer) != want {
		t.Errorf("left %q", buffer)
	}
	c.forget([]byte("what went past the buffer"))
}

// TestManyUsersFail: the failures of so many users are counted and no more, and nobody
// waits for what another has done.
func TestManyUsersFail(t *testing.T) {
	f := newFailures(2, 1)
	of := func(uid uint32) peer.Identity { return peer.Identity{Network: peer.AWS, UID: uid, UIDKnown: true} }
	unknown, overflow := peer.Identity{Network: peer.AWS}, of(65534)
	overflow.UIDOverflow = true
	now := time.Unix(1700000000, 0)
	for uid := range uint32(maxUsers) {
		f.count(of(uid), now)
	}
	for range 3 {
		f.count(of(maxUsers), now)
		f.count(unknown, now)
		f.count(overflow, now)
	}
	for _, who := range []peer.Identity{of(0), of(maxUsers), of(maxUsers + 1), unknown, overflow} {
		if f.tooMany(who, now) {
			t.Errorf("%v waits", who)
		}
	}
	if len(f.users) != maxUsers {
		t.Errorf("%d users are kept", len(f.users))
	}
	f.count(of(0), now)
	if !f.tooMany(of(0), now) || f.tooMany(of(1), now) {
		t.Error("two failures of one user are not his alone")
	}
	// Who has not failed lately makes room.
	now = now.Add(time.Minute)
	f.count(of(1<<20), now)
	if len(f.users) != 1 || f.tooMany(of(0), now) {
		t.Errorf("%d users are kept", len(f.users))
	}
}
