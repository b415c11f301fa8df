package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestReadmeIsWalked holds that the script which walks the README has every
// command that the README shows, in its order.
func TestReadmeIsWalked(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("testdata/script/readme.txtar")
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile(`(?m)^\$ (.+)$`).FindAllStringSubmatch(string(readme), -1)
	if len(shown) < 8 {
		t.Fatalf("the README shows only %d commands", len(shown))
	}
	rest := string(script)
	for _, s := range shown {
		_, after, found := strings.Cut(rest, "# $ "+s[1]+"\n")
		if !found {
			t.Errorf("the script does not walk, or not in this order: %s", s[1])
			continue
		}
		rest = after
	}
}
