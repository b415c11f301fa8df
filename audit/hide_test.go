package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/keybroker/keybroker/audit"
)

// contexts are those of all records that have one, in order.
func contexts(t *testing.T, dir string) (all []map[string]string) {
	t.Helper()
	for _, path := range slices.Backward(logFiles(t, dir)) {
		for line := range bytes.Lines(readFile(t, path)) {
			var r struct{ Context map[string]string }
			if err := json.Unmarshal(line, &r); err != nil {
				t.Fatal(err)
			}
			if r.Context != nil {
				all = append(all, r.Context)
			}
		}
	}
	return all
}

func appendContext(t *testing.T, l *audit.Log, hide bool, pairs map[string]string) {
	t.Helper()
	r := named("r")
	r.Context, r.HideContext = pairs, hide
	if _, err := l.Append(context.Background(), r); err != nil {
		t.Fatal(err)
	}
}

// guess runs the document's script.
func guess(t *testing.T, keyFile, value string) string {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("openssl is missing: install it")
		}
		t.Skip("openssl is not installed, so the document's script is not run")
	}
	const begin = "```sh\n# usage: sh guess.sh"
	_, script, ok := strings.Cut(document(t), begin)
	if !ok {
		t.Fatal("the document has no script")
	}
	script, _, _ = strings.Cut(begin[len("```sh\n"):]+script, "\n```\n")
	path := filepath.Join(t.TempDir(), "guess.sh")
	if err := os.WriteFile(path, []byte(script+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sh", path, keyFile, value).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(string(out), "\n")
}

// A hidden value is the HMAC that the document's script makes of it; names stay, and no
// value stands in the log. It stays the same after a rotation and a restart, and is
// another in another log.
func TestHiddenValues(t *testing.T) {
	long := strings.Repeat("long ", 2000)
	pairs := map[string]string{"cluster": "prod-1", "tenant": "Müller", "empty": "", "long": long}
	dir := privateDir(t)
	cfg := signedConfig(dir, audit.SyncAlways)
	keyFile := filepath.Join(dir, "."+logName+".hmac")
	for range 2 {
		l, err := audit.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		appendContext(t, l, true, pairs)
		if err := l.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		appendContext(t, l, true, pairs)
		mustClose(t, l)
	}
	if info, err := os.Stat(keyFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	want := map[string]string{}
	for name, value := range pairs {
		want[name] = guess(t, keyFile, value)
		if !regexp.MustCompile(`^hmac-sha256:[0-9a-f]{64}$`).MatchString(want[name]) {
			t.Fatalf("the script prints %q", want[name])
		}
	}
	got := contexts(t, dir)
	if len(got) != 4 {
		t.Fatalf("%d records have a context", len(got))
	}
	for _, g := range got {
		if !maps.Equal(g, want) {
			t.Errorf("%v, want %v", g, want)
		}
	}
	key := strings.TrimSpace(string(readFile(t, keyFile)))
	for _, path := range logFiles(t, dir) {
		for _, secret := range []string{"prod-1", "Müller", "long ", key} {
			if bytes.Contains(readFile(t, path), []byte(secret)) {
				t.Errorf("%s holds %q", path, secret)
			}
		}
	}
	if !maps.Equal(pairs, map[string]string{"cluster": "prod-1", "tenant": "Müller", "empty": "", "long": long}) {
		t.Error("the caller's context was changed")
	}
	if r := verifyDir(t, dir); !r.OK() {
		t.Errorf("%s", problems(r))
	}

	other := privateDir(t)
	otherCfg := config(other, audit.SyncOS) // not signed, by other random bytes
	l, err := audit.Open(otherCfg)
	if err != nil {
		t.Fatal(err)
	}
	appendContext(t, l, true, pairs)
	mustClose(t, l)
	if got := contexts(t, other)[0]["cluster"]; got == want["cluster"] || got != guess(t, filepath.Join(other, "."+logName+".hmac"), "prod-1") {
		t.Errorf("in another log it is %s", got)
	}
}

// Where the key is configured to be elsewhere, it is beside it.
func TestHidingKeyBesideTheSigningKey(t *testing.T) {
	dir, state := privateDir(t), privateDir(t)
	cfg := signedConfig(dir, audit.SyncOS)
	cfg.SigningKey = filepath.Join(state, "audit.key")
	l, err := audit.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	if _, err := os.Stat(filepath.Join(state, "audit.hmac")); err != nil {
		t.Error(err)
	}
}

// Nobody can pass a value of his own off as a hidden one.
func TestValuesThatLookHidden(t *testing.T) {
	dir := privateDir(t)
	l := mustOpen(t, config(dir, audit.SyncOS), newDisk().system())
	appendContext(t, l, false, map[string]string{"a": "hmac-sha256:00", "b": "plain"})
	appendContext(t, l, true, map[string]string{"a": "hmac-sha256:00"})
	mustClose(t, l)
	got := contexts(t, dir)
	if !strings.HasPrefix(got[0]["a"], "sha256:") || got[0]["b"] != "plain" {
		t.Errorf("not hidden: %v", got[0])
	}
	if v := got[1]["a"]; !strings.HasPrefix(v, "hmac-sha256:") || v == "hmac-sha256:00" {
		t.Errorf("hidden: %v", v)
	}
}

// A key that others could read, or that is none, is not used, and not replaced.
func TestHidingKeyThatIsNone(t *testing.T) {
	good := strings.Repeat("ab", 32)
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want string // in the error; empty: it is taken
	}{
		"as it is made":     {good + "\n", 0o600, ""},
		"without a newline": {good, 0o400, ""},
		"others may read":   {good + "\n", 0o640, "chmod 0600"},
		"too short":         {good[2:] + "\n", 0o600, "64 hex digits"},
		"too long":          {good + "ab\n", 0o600, "64 hex digits"},
		"no hex":            {strings.Repeat("xy", 32), 0o600, "64 hex digits"},
		"nothing":           {"", 0o600, "64 hex digits"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := privateDir(t)
			path := filepath.Join(dir, "."+logName+".hmac")
			if err := os.WriteFile(path, []byte(c.text), c.mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			l, err := audit.Open(signedConfig(dir, audit.SyncOS))
			if err == nil {
				mustClose(t, l)
			}
			if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || c.text != "" && strings.Contains(err.Error(), strings.TrimSpace(c.text))) {
				t.Errorf("%v", err)
			}
			if !bytes.Equal(readFile(t, path), []byte(c.text)) {
				t.Error("it was changed")
			}
		})
	}
}

// What stands in the place of the key and might have to be waited for is refused.
func TestHidingKeyThatIsAFIFO(t *testing.T) {
	c := signedConfig(privateDir(t), audit.SyncOS)
	path := strings.TrimSuffix(c.SigningKey, ".key") + ".hmac"
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := audit.OpenOn(c, newDisk().system())
	if err == nil {
		mustClose(t, l)
	}
	if err == nil || !strings.Contains(err.Error(), path+" is not a regular file") {
		t.Errorf("%v", err)
	}
}
