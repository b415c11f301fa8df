package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestDevLinesWork pastes every line that dev prints into a shell.
func TestDevLinesWork(t *testing.T) {
	dir := t.TempDir()
	// As `make run` does: by a path from the directory.
	program, err := exec.LookPath("keybroker")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, filepath.Join(dir, "bin", "keybroker")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bin/keybroker", "dev", "--admin", "", "--aws", "")
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			_ = cmd.Process.Signal(syscall.SIGINT)
			if err := cmd.Wait(); err != nil {
				t.Errorf("dev did not end well on Ctrl-C: %v", err)
			}
		}
	}
	defer stop()
	var lines []string
	scan := bufio.NewScanner(out)
	for scan.Scan() {
		if line, ok := strings.CutPrefix(scan.Text(), "  "); ok {
			lines = append(lines, line)
		}
		if strings.HasPrefix(scan.Text(), "Stop it") {
			break
		}
	}
	if len(lines) < 5 {
		t.Fatalf("dev printed only %q", lines)
	}
	shell := exec.Command("/bin/sh", "-e", "-x")
	shell.Dir = t.TempDir() // another directory
	shell.Stdin = strings.NewReader(strings.Join(lines, "\n"))
	said, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("the printed lines do not work: %v\n%s", err, said)
	}
	for _, want := range []string{"demo", "unwrap", "whole:"} {
		if !strings.Contains(string(said), want) {
			t.Errorf("they do not show %q:\n%s", want, said)
		}
	}
	if left, err := os.ReadDir(shell.Dir); err != nil || len(left) > 0 {
		t.Errorf("they leave %v behind, %v", left, err)
	}
	stop()

	entries := map[string]os.FileMode{
		"": 0o700 | os.ModeDir, "keyring": 0o700 | os.ModeDir, "config.yaml": 0o600, "audit.jsonl": 0o640, "keyring/demo.keyring": 0o600,
		"1.sst.key": 0o600,
	}
	for name, want := range entries {
		info, err := os.Stat(filepath.Join(dir, ".keybroker-dev", name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: mode %v, want %v: %v", name, info.Mode(), want, err)
		}
	}
}
