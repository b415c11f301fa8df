package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/keybroker/keybroker/audit/verify"
)

// signedLog is a log of two records, the second of which is a checkpoint of the
// first, and is unsigned itself.
type signedLog struct {
	path, pubkey string
	checkpoint   string // of the first record
	of           func(seq int, hash [32]byte) string
}

const auditLogID = "00112233445566778899aabbccddeeff"

func newSignedLog(t *testing.T) *signedLog {
	t.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	vkey, err := note.NewEd25519VerifierKey("keybroker.audit", private.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	hash := strings.Split(vkey, "+")[1]
	signer, err := note.NewSigner("PRIVATE+KEY+keybroker.audit+" + hash + "+" + base64.StdEncoding.EncodeToString(append([]byte{1}, private.Seed()...)))
	if err != nil {
		t.Fatal(err)
	}
	l := &signedLog{path: filepath.Join(t.TempDir(), "audit.jsonl"), pubkey: vkey}
	l.of = func(seq int, hash [32]byte) string {
		text := fmt.Sprintf("keybroker.audit/%s\n%d\n%s\ntime 2026-01-02T03:04:05.000000000Z\nnode n1\n", auditLogID, seq, base64.StdEncoding.EncodeToString(hash[:]))
		b, err := note.Sign(&note.Note{Text: text}, signer)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	var lines string
	var prev [32]byte
	record := func(seq int, members string) {
		body := fmt.Sprintf(`{"v":1,"seq":%d,"time":"2026-01-02T03:04:05.000000000Z","node":"n1",%s,"prev":"%x"`, seq, members, prev)
		prev = sha256.Sum256([]byte(body))
		lines += fmt.Sprintf("%s,\"hash\":\"%x\"}\n", body, prev)
	}
	record(1, `"event":"create","outcome":"ok","log":"`+auditLogID+`","public_key":"`+vkey+`"`)
	l.checkpoint = l.of(1, prev)
	record(2, `"event":"checkpoint","outcome":"ok","checkpoint":"`+strings.ReplaceAll(l.checkpoint, "\n", `\n`)+`","public_key":"`+vkey+`"`)
	if err := os.WriteFile(l.path, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	return l
}

func keep(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kept")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAuditVerifyFlags(t *testing.T) {
	l := newSignedLog(t)
	k, err := verify.ParseKey(l.pubkey)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := note.NewEd25519VerifierKey("keybroker.audit", make([]byte, ed25519.PublicKeySize))
	if err != nil {
		t.Fatal(err)
	}
	signed := "\nsigned up to record 1 (2026-01-02T03:04:05Z), by key " + k.ID() + "; 1 record after it not yet"
	other := l.of(1, [32]byte{1})
	for _, test := range []struct {
		name  string
		args  []string
		stdin string
		code  int
		want  string // in what it prints
	}{
		{"no flags", nil, "", exitOK, signed + "; that the first key is the broker's is the log's own word (--pubkey)\nhead 2:"},
		{"a key", []string{"--pubkey", l.pubkey}, "", exitOK, signed + "\nhead 2:"},
		{"a key in a file", []string{"--pubkey", keep(t, l.pubkey+"\n")}, "", exitOK, signed + "\nhead 2:"},
		{"a key and a checkpoint", []string{"--pubkey", l.pubkey, "--checkpoint", keep(t, l.checkpoint)}, "", exitOK, signed},
		{"a checkpoint from standard input", []string{"--checkpoint", "-"}, l.checkpoint, exitOK, signed},
		{"two checkpoints", []string{"--checkpoint", keep(t, l.checkpoint), "--checkpoint", keep(t, other)}, "", exitVerification,
			"PROBLEM: " + l.path + ":1: record 1: its hash is"},
		{"a key of nobody", []string{"--pubkey", stranger}, "", exitVerification, "no checkpoint in the files is signed by the key"},
		{"no key", []string{"--pubkey", "keybroker.audit+x"}, "", exitUsage, "it is no key as keybroker writes it"},
		{"no file with a key", []string{"--pubkey", "missing"}, "", exitUsage, "missing"},
		{"a file with something else", []string{"--pubkey", keep(t, "hello")}, "", exitUsage, "does not hold one public key of an audit log"},
		{"no checkpoint", []string{"--checkpoint", keep(t, "hello")}, "", exitUsage, "is not a checkpoint of an audit log: it is no signed note"},
		{"no file with a checkpoint", []string{"--checkpoint", "missing"}, "", exitUsage, "missing"},
		{"no URL", []string{"--from-url", "broker"}, "", exitUsage, "--from-url: broker: want https://HOST/PATH, or http:// on this host"},
		{"plain HTTP to another host", []string{"--from-url", "http://192.0.2.1/audit/checkpoint"}, "", exitUsage, "want https://HOST/PATH"},
		{"a file as URL", []string{"--from-url", "file:///etc/passwd"}, "", exitUsage, "want https://HOST/PATH"},
		{"nobody listens", []string{"--from-url", "http://127.0.0.1:1/audit/checkpoint"}, "", exitUnavailable, "connection refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, told := auditVerify(t, test.stdin, append(test.args, l.path)...)
			if code != test.code || !strings.Contains(told, test.want) {
				t.Errorf("exit code %d, want %d; it says\n%s\nwant %q", code, test.code, told, test.want)
			}
		})
	}
}

func auditVerify(t *testing.T, stdin string, args ...string) (int, string) {
	t.Helper()
	var out bytes.Buffer
	env := &Env{Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &out, Getenv: func(string) string { return "" }, Args0: "keybroker"}
	code := run(t.Context(), env, append([]string{"audit", "verify"}, args...))
	return code, out.String()
}

func TestAuditVerifyJSON(t *testing.T) {
	l := newSignedLog(t)
	code, told := auditVerify(t, "", "-o", "json", "--pubkey", l.pubkey, l.path)
	var got struct {
		OK     bool
		Signed map[string]any
	}
	if err := json.Unmarshal([]byte(told), &got); err != nil {
		t.Fatalf("%v: %s", err, told)
	}
	want := map[string]any{"seq": 1.0, "time": "2026-01-02T03:04:05Z", "checkpoints": 1.0, "keys": 1.0, "unsigned": 1.0,
		"first_key": l.pubkey, "last_key": l.pubkey, "current_key": l.pubkey, "key_given": true}
	if code != exitOK || !got.OK || fmt.Sprint(got.Signed) != fmt.Sprint(want) {
		t.Errorf("exit code %d, %s", code, told)
	}
}

func TestCheckpointFromURL(t *testing.T) {
	l := newSignedLog(t)
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		code   int
		want   string
	}{
		{"the log's", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, l.checkpoint) }, exitOK, "whole: "},
		{"one that the log has not", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, l.of(3, [32]byte{})) }, exitVerification,
			"and record 3 is known from the checkpoint http://127.0.0.1:"},
		{"something else", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }, exitFailed, "is not a checkpoint of an audit log"},
		{"nothing", func(http.ResponseWriter, *http.Request) {}, exitFailed, "the answer is empty"},
		{"without an end", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		}, exitFailed, "it is longer than"},
		{"not found", http.NotFound, exitFailed, "the server answered 404"},
		{"not now", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, exitUnavailable, "the server answered 503"},
		{"elsewhere", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/other" {
				fmt.Fprint(w, l.checkpoint)
				return
			}
			http.Redirect(w, r, "/other", http.StatusFound)
		}, exitFailed, `the server sends on to "/other"`},
		{"cut off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, l.checkpoint)
		}, exitUnavailable, "unexpected EOF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(test.answer)
			defer server.Close()
			code, told := auditVerify(t, "", "--from-url", server.URL+"/audit/checkpoint", l.path)
			if code != test.code || !strings.Contains(told, test.want) {
				t.Errorf("exit code %d, want %d; it says\n%s\nwant %q", code, test.code, told, test.want)
			}
		})
	}
}
