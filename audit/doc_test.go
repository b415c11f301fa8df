package audit_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/audit"
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
		"start", "stop", "config", "backend", "create", "rotate", "repair", "checkpoint", "expire", "alarm",
		"torn_tail", "live_file_missing", "write_failed", "sync_failed", "file_removed", "file_replaced", "file_changed", "file_unreachable",
		"file", "tail_bytes", "tail_sha256", "synced_seq", // of former
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

// checkScript writes the document's script into a file and returns its path.
func checkScript(t *testing.T) string {
	t.Helper()
	for _, tool := range []string{"jq", "sha256sum"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing: install it", tool)
			}
			t.Skipf("%s is not installed, so the document's script is not run", tool)
		}
	}
	const begin = "```sh\n# usage: sh check.sh"
	_, script, ok := strings.Cut(document(t), begin)
	if !ok {
		t.Fatal("the document has no script")
	}
	script, _, _ = strings.Cut(begin[len("```sh\n"):]+script, "\n```\n")
	path := filepath.Join(t.TempDir(), "check.sh")
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
