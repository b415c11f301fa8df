package audit_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/audit/verify"
)

func document(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The example is what a log begins with.
func TestDocumentExample(t *testing.T) {
	_, example, _ := strings.Cut(document(t), "```json\n")
	example, _, _ = strings.Cut(example, "```")
	golden := strings.SplitAfter(string(readFile(t, "testdata/golden.jsonl")), "\n")
	if want := strings.Join(golden[:3], ""); example != want {
		t.Errorf("the document has\n%s\nwant\n%s", example, want)
	}
}

// Each event, outcome, reason and member has a row.
func TestDocumentIsComplete(t *testing.T) {
	doc := document(t)
	rows := map[string]bool{}
	for line := range strings.Lines(doc) {
		if cell, _, ok := strings.Cut(strings.TrimPrefix(line, "| "), " |"); ok && cell != "" {
			for name := range strings.SplitSeq(cell, ", ") {
				rows[name] = true
			}
		}
	}
	names := []string{ // as they stand in the source
		"generate", "wrap", "unwrap", "rewrap", "renew", "inspect", "list", "random", "drill", "status", "purge", "reload", "tail", "denied-at-the-door",
		"start", "stop", "config", "backend", "create", "rotate", "repair", "checkpoint", "expire", "alarm", "anchor",
		"log_shortened", "log_exchanged", "signing_key_replaced", "disk_hung", "torn_tail", "live_file_missing", "write_failed", "sync_failed", "file_removed", "file_replaced", "file_changed", "file_unreachable",
		"file", "tail_bytes", "tail_sha256", "synced_seq", // of former
		"public_key",
	}
	for line := range bytes.Lines(readFile(t, "testdata/golden.jsonl")) {
		var record map[string]json.RawMessage
		if err := json.Unmarshal(line, &record); err != nil {
			t.Fatal(err)
		}
		var client map[string]json.RawMessage
		if c := record["client"]; c != nil {
			if err := json.Unmarshal(c, &client); err != nil {
				t.Fatal(err)
			}
		}
		for _, members := range []map[string]json.RawMessage{record, client} {
			for name := range members {
				names = append(names, name)
			}
		}
	}
	if !slices.Contains(names, "access_key_id") || !slices.Contains(names, "boot_id") {
		t.Fatal("the golden lines do not hold every member")
	}
	for _, name := range names {
		if !rows["`"+name+"`"] {
			t.Errorf("the document has no row for %s", name)
		}
	}
	for _, outcome := range []audit.Outcome{audit.OutcomeOK, audit.OutcomeDenied, audit.OutcomeError} {
		if !strings.Contains(doc, "`"+string(outcome)+"`") {
			t.Errorf("the document does not name the outcome %s", outcome)
		}
	}
}

// checkScript writes the document's script that checks the chain into a file and
// returns its path.
func checkScript(t *testing.T) string {
	return documentScript(t, "check.sh", "jq", "sha256sum", "zstd", "gzip")
}

// documentScript writes a script of the document, which needs some tools, into a
// file and returns its path.
func documentScript(t *testing.T, name string, tools ...string) string {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing: install it", tool)
			}
			t.Skipf("%s is not installed, so the document's script is not run", tool)
		}
	}
	const fence = "```sh\n"
	begin := "# usage: sh " + name + " "
	_, script, ok := strings.Cut(document(t), fence+begin)
	if !ok {
		t.Fatal("the document has no script " + name)
	}
	script, _, _ = strings.Cut(begin+script, "\n```\n")
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(script+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// runScript returns what the script prints, and whether it takes the log.
func runScript(t *testing.T, script, dir string) (out string, ok bool) {
	t.Helper()
	files := logFiles(t, dir)
	args := append([]string{script}, append(files[1:], files[0])...) // the live one last
	cmd := exec.Command("sh", args...)
	b, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(b), dir+"/", ""), err == nil
}

// The script of the document takes a log as it is, and finds what was done to it,
// as the verifier does.
func TestDocumentScript(t *testing.T) {
	script := checkScript(t)
	const first, second, third = logName + ".00000000000000000001", logName + ".00000000000000000006", logName + ".00000000000000000011"
	edit := func(file string, f func(lines []string) []string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, file)
			lines := f(strings.SplitAfter(string(readFile(t, path)), "\n"))
			if err := os.WriteFile(path, []byte(strings.Join(lines, "")), 0o640); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, test := range []struct {
		name   string
		tamper func(t *testing.T, dir string)
		want   string // the place; empty: the log is whole
	}{
		{"nothing", func(*testing.T, string) {}, ""},
		{"the first file was removed", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, first)); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"a line was changed", edit(second, func(l []string) []string { l[2] = strings.Replace(l[2], `"ok"`, `"no"`, 1); return l }), second + ":3:"},
		{"a line was changed and hashed again", edit(second, func(l []string) []string {
			l[2] = hashedAgain(strings.Replace(l[2], `"ok"`, `"no"`, 1))
			return l
		}), second + ":4:"},
		{"a number was changed and hashed again, at the end", edit(logName, func(l []string) []string {
			l[4] = hashedAgain(strings.Replace(l[4], `"seq":20`, `"seq":21`, 1))
			return l
		}), logName + ":5:"},
		{"a line was removed", edit(second, func(l []string) []string { return slices.Delete(l, 2, 3) }), second + ":3:"},
		{"a line was inserted", edit(second, func(l []string) []string { return slices.Insert(l, 3, l[1]) }), second + ":4:"},
		{"lines were swapped", edit(second, func(l []string) []string { l[2], l[3] = l[3], l[2]; return l }), second + ":3:"},
		{"a blank line was inserted", edit(second, func(l []string) []string { return slices.Insert(l, 3, "\n") }), second + ":4:"},
		{"a NUL byte was inserted", edit(second, func(l []string) []string { l[2] = l[2][:9] + "\x00" + l[2][9:]; return l }), second + ":3:"},
		{"newlines were changed", edit(second, func(l []string) []string { l[2] = strings.Replace(l[2], "\n", "\r\n", 1); return l }), second + ":3:"},
		{"a middle file was removed", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, second)); err != nil {
				t.Fatal(err)
			}
		}, first + ":0:"},
		{"a tail was changed", edit(first, func(l []string) []string { l[5] = strings.ToUpper(l[5]); return l }), first + ":0:"},
		{"a tail was removed", edit(first, func(l []string) []string { return l[:5] }), first + ":0:"},
		{"a tail was added", edit(logName, func(l []string) []string { return append(l, "hello") }), logName + ":6:"},
		{"the end was cut within a line", edit(logName, func(l []string) []string { l[4] = l[4][:99]; return l }), logName + ":5:"},
		{"the last newline was cut", edit(logName, func(l []string) []string { l[4] = strings.TrimSuffix(l[4], "\n"); return l }), logName + ":5:"},
		{"the last file was emptied", edit(logName, func([]string) []string { return nil }), third + ":6:"},
		{"two files were compressed", func(t *testing.T, dir string) {
			run(t, "zstd", "-q", "--rm", filepath.Join(dir, first))
			run(t, "gzip", filepath.Join(dir, second))
		}, ""},
		{"a line was changed and its file compressed", func(t *testing.T, dir string) {
			edit(second, func(l []string) []string { l[2] = strings.Replace(l[2], `"ok"`, `"no"`, 1); return l })(t, dir)
			run(t, "zstd", "-q", "--rm", filepath.Join(dir, second))
		}, second + ".zst:3:"},
		{"a tail was changed and its file compressed", func(t *testing.T, dir string) {
			edit(first, func(l []string) []string { l[5] = strings.ToUpper(l[5]); return l })(t, dir)
			run(t, "zstd", "-q", "--rm", filepath.Join(dir, first))
		}, first + ".zst:0:"},
		{"a compressed file was cut", func(t *testing.T, dir string) {
			run(t, "zstd", "-q", "--rm", filepath.Join(dir, second))
			b := readFile(t, filepath.Join(dir, second+".zst"))
			if err := os.WriteFile(filepath.Join(dir, second+".zst"), b[:len(b)-1], 0o640); err != nil {
				t.Fatal(err)
			}
		}, second + ".zst:0: it cannot be read"},
		{"the first record was written anew", edit(first, func(l []string) []string {
			l[0] = hashedAgain(strings.Replace(l[0], `"prev":"0`, `"prev":"1`, 1))
			return l
		}), first + ":1:"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := privateDir(t)
			l := manyFiles(t, dir)
			head := l.Head()
			mustClose(t, l)
			test.tamper(t, dir)
			out, ok := runScript(t, script, dir)
			if result := verifyDir(t, dir); ok != result.OK() {
				t.Errorf("the script says %q, the verifier %v\n%s", out, result.OK(), problems(result))
			}
			if ok != (test.want == "") || !ok && !strings.HasPrefix(lastLine(out), test.want) {
				t.Errorf("the script says %q, want %q", out, test.want)
			}
			if want := "whole; head 20:" + hexOf(head.Hash); ok && lastLine(out) != want {
				t.Errorf("the script says %q, want %q", out, want)
			}
		})
	}
}

// The script takes lines of any text, and a file without a record.
func TestDocumentScriptOnOtherLogs(t *testing.T) {
	script := checkScript(t)
	dir := privateDir(t)
	path := filepath.Join(dir, logName)
	if err := os.WriteFile(path, readFile(t, "testdata/golden.jsonl"), 0o640); err != nil {
		t.Fatal(err)
	}
	if out, ok := runScript(t, script, dir); !ok || !strings.HasPrefix(out, "whole; head 8:797a29adb2ea4a3b") {
		t.Errorf("%s", out)
	}
	if err := os.Rename(path, path+".00000000000000000001"); err != nil {
		t.Fatal(err)
	}
	addTo(t, path, "{\x00\n\x00")
	mustClose(t, mustOpen(t, config(dir, audit.SyncOS), newDisk().system()))
	if out, ok := runScript(t, script, dir); !ok || !strings.HasPrefix(out, "whole; head 9:") {
		t.Errorf("%s", out)
	}
	expectWhole(t, dir, nil)
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// run runs a command.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// The script that checks a signature takes what the key has signed and nothing else;
// also the document's own example.
func TestDocumentSignature(t *testing.T) {
	script := documentScript(t, "signature.sh", "openssl", "od", "base64")
	_, example, ok := strings.Cut(document(t), "```\nkeybroker.audit/")
	if !ok {
		t.Fatal("the document has no checkpoint")
	}
	example, _, _ = strings.Cut("keybroker.audit/"+example, "```\n")
	_, key, ok := strings.Cut(document(t), "A public key is `")
	if !ok {
		t.Fatal("the document has no key")
	}
	key, _, _ = strings.Cut(key, "`")
	if !strings.Contains(document(t), "sh signature.sh "+key+" ") {
		t.Error("the document runs the script with another key than the one that it shows")
	}
	_, told, _ := strings.Cut(document(t), "\nsigned: ")
	told, _, _ = strings.Cut("signed: "+told, "\n")

	text, signature, _ := strings.Cut(example, "\n\n")
	_, otherKey := signedBy(t, text+"\n", 2)
	plus, plusKey := signedBy(t, text+"\n", 8) // its base64 has a plus
	next, nextKey := signedBy(t, text+"\nnext "+otherKey+"\n", 3)
	if strings.Count(plusKey, "+") != 3 {
		t.Fatalf("%s has no plus in its base64", plusKey)
	}
	signatureOf := func(s string) string { _, sig, _ := strings.Cut(s, "\n\n"); return sig }
	for _, test := range []struct {
		name, key, text string
		ok              bool
	}{
		{"the example", key, example, true},
		{"another key", otherKey, example, false},
		{"another text", key, strings.Replace(example, "node n1", "node n2", 1), false},
		{"another number", key, strings.Replace(example, "\n9309\n", "\n9310\n", 1), false},
		{"another signature", key, strings.Replace(example, "nZgyZ", "nZgyY", 1), true}, // the id alone
		{"a signature that was changed", key, strings.Replace(example, "OAc=", "OAg=", 1), false},
		{"no signature", key, text + "\n\n", false},
		{"no blank line", key, text + "\n" + signature, false},
		{"a witness before", key, text + "\n\n— witness.example AAAAAAAA\n" + signatureOf(plus) + signature, true},
		{"a key with a plus", plusKey, plus, true},
		{"a next key", nextKey, next, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "checkpoint.txt")
			if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("sh", script, test.key, path).CombinedOutput()
			if (err == nil) != test.ok || test.ok && strings.TrimSuffix(string(out), "\n") != told {
				t.Errorf("%v: %s\nwant %s", err, out, told)
			}
			k, err := verify.ParseKey(test.key)
			if err != nil || k.String() != test.key {
				t.Errorf("%v", err)
			}
		})
	}
}

// Both scripts take a log that was rotated, and an auditor who has its first key
// alone gets to every other one.
func TestDocumentScriptsOnRotatedLog(t *testing.T) {
	check, signature := checkScript(t), documentScript(t, "signature.sh", "openssl", "od", "base64", "jq")
	dir := privateDir(t)
	l := mustOpen(t, signedConfig(dir, audit.SyncOS), newDisk().system())
	key := l.PublicKey()
	for i := range 3 {
		mustAppend(t, l, strconv.Itoa(i))
		if err := l.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	last := l.PublicKey()
	mustClose(t, l)
	files := logFiles(t, dir)
	files = append(files[1:], files[0]) // the live one last
	for _, path := range files[1:] {
		first, _, _ := strings.Cut(string(readFile(t, path)), "\n")
		var record struct {
			Checkpoint string
			Prev       string
		}
		if err := json.Unmarshal([]byte(first), &record); err != nil {
			t.Fatal(err)
		}
		checkpoint := filepath.Join(t.TempDir(), "checkpoint.txt")
		if err := os.WriteFile(checkpoint, []byte(record.Checkpoint), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("sh", signature, key, checkpoint).CombinedOutput()
		if err != nil || !strings.HasSuffix(string(out), ":"+record.Prev+"\n") {
			t.Errorf("%s: %v: %s", path, err, out)
		}
		_, next, _ := strings.Cut(record.Checkpoint, "\nnext ")
		key, _, _ = strings.Cut(next, "\n")
	}
	if key != last {
		t.Errorf("the keys lead to %s, want %s", key, last)
	}
	run(t, "zstd", "-q", "--rm", files[0])
	if out, ok := runScript(t, check, dir); !ok {
		t.Errorf("%s", out)
	}
}

// signedBy signs a text with the key that a number makes, and returns the note and
// the public key.
func signedBy(t *testing.T, text string, n byte) (signed, public string) {
	t.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
	public, err := note.NewEd25519VerifierKey("keybroker.audit", private.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	id := strings.SplitN(public, "+", 3)[1]
	signer, err := note.NewSigner("PRIVATE+KEY+keybroker.audit+" + id + "+" + base64.StdEncoding.EncodeToString(append([]byte{1}, private.Seed()...)))
	if err != nil {
		t.Fatal(err)
	}
	b, err := note.Sign(&note.Note{Text: text}, signer)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), public
}
