package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestInstallHasEveryFile holds that docs/install.md puts every file of
// deploy/systemd where the file itself says, and names no other.
func TestInstallHasEveryFile(t *testing.T) {
	text, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../../deploy/systemd/*")
	if err != nil || len(files) == 0 {
		t.Fatalf("%q, %v", files, err)
	}
	for _, file := range files {
		name := strings.TrimPrefix(file, "../../")
		at := regexp.MustCompile(`(?m)^# install .*` + regexp.QuoteMeta(name) + ` .*?(/[^ ]+)$`).FindStringSubmatch(string(text))
		if at == nil {
			t.Errorf("%s is not installed", name)
			continue
		}
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		// Where a file says its place, it is in its first line.
		first, _, _ := strings.Cut(string(content), "\n")
		if place := regexp.MustCompile(`^# (/[^ :]+)`).FindStringSubmatch(first); place != nil && place[1] != at[1] {
			t.Errorf("%s goes to %s, and says %s", name, at[1], place[1])
		}
	}
	for _, name := range regexp.MustCompile(`deploy/[a-z/]+[a-z0-9-]+\.[a-z.]+[a-z]`).FindAllString(string(text), -1) {
		if _, err := os.Stat("../../" + name); err != nil {
			t.Error(err)
		}
	}
}
