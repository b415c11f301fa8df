package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startDev runs a dev broker until the test ends, and returns its socket.
func startDev(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kb") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cmd := exec.Command("keybroker", "dev", "--admin", "", "--aws", "", "--dir", dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		_ = cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 1)); err != nil { // it says that it is ready
		t.Fatal(err)
	}
	return filepath.Join(dir, "keybroker.sock")
}

// terminal is an Env whose output a person looks at.
func terminal() (env *Env, out, told *bytes.Buffer) {
	out, told = new(bytes.Buffer), new(bytes.Buffer)
	return &Env{
		Stdin: strings.NewReader(""), Stdout: out, Stderr: told, StdoutTerminal: true, StderrTerminal: true,
		Getenv: func(string) string { return "" }, Args0: "keybroker",
	}, out, told
}

// On a terminal JSON has no member for the data key, rather than an empty one.
func TestJSONOnATerminal(t *testing.T) {
	socket := startDev(t)
	wrapped := filepath.Join(t.TempDir(), "a.key")
	for _, test := range []struct {
		name   string
		args   []string
		member bool
	}{
		{"generate", []string{"generate", "demo", "--out", wrapped}, false},
		{"unwrap", []string{"unwrap", wrapped}, false},
		{"unwrap and show", []string{"unwrap", wrapped, "--show"}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			env, out, told := terminal()
			if code := run(t.Context(), env, append(test.args, "-o", "json", "--socket", socket)); code != 0 {
				t.Fatalf("exit code %d: %s", code, told)
			}
			var members map[string]any
			if err := json.Unmarshal(out.Bytes(), &members); err != nil {
				t.Fatalf("%v in %s", err, out)
			}
			if plaintext, there := members["plaintext"]; there != test.member || there && plaintext == "" {
				t.Errorf("a member for the data key: %t, want %t", there, test.member)
			}
			if members["key_name"] != "demo" {
				t.Errorf("key_name: %v", members["key_name"])
			}
			if hint := strings.Contains(told.String(), "--show prints it"); hint == test.member {
				t.Errorf("told: %q", told)
			}
		})
	}
}

// A broker that does not answer is one picture on a terminal, and one line
// elsewhere, with since when.
func TestSilence(t *testing.T) {
	const times = 3
	opts := &options{output: outputText}
	cause := errors.New("there is no broker")

	env, out, told := terminal()
	var since time.Time
	for range times {
		env.showSilence(cause, &since, opts)
	}
	want := clearScreen + "no answer since " + since.UTC().Format(time.RFC3339) + ": there is no broker\n"
	if out.String() != strings.Repeat(want, times) || told.Len() > 0 {
		t.Errorf("on a terminal: %q, and %q", out, told)
	}

	env, out, told = terminal()
	env.StdoutTerminal = false
	since = time.Time{}
	for range times {
		env.showSilence(cause, &since, opts)
	}
	want = "keybroker: no answer since " + since.UTC().Format(time.RFC3339) + ": there is no broker\n"
	if told.String() != want || out.Len() > 0 {
		t.Errorf("elsewhere: %q, and %q", told, out)
	}
}
