package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestContributingSaysTheArrows holds the table of CONTRIBUTING.md to the arrows.
func TestContributingSaysTheArrows(t *testing.T) {
	text, err := os.ReadFile("../../CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	quoted := regexp.MustCompile("`([^`]+)`")
	may := map[string]string{} // by package, the cell that says what it may import
	for _, row := range regexp.MustCompile(`(?m)^\|(.*)\|(.*)\|(.*)\|$`).FindAllStringSubmatch(string(text), -1) {
		for _, pkg := range quoted.FindAllStringSubmatch(row[1], -1) {
			may[pkg[1]] = row[3]
		}
	}
	for pkg, imports := range arrows() {
		cell, ok := may[strings.TrimSuffix(pkg, "/keybroker/v1")] // proto
		if !ok {
			t.Errorf("CONTRIBUTING.md does not have %s", pkg)
			continue
		}
		var said []string
		for _, other := range quoted.FindAllStringSubmatch(cell, -1) {
			said = append(said, other[1])
		}
		if nothing := strings.Contains(cell, "nothing of ours"); nothing != (len(imports) == 0) || nothing && len(said) > 0 {
			t.Errorf("CONTRIBUTING.md: %s may import %s; the arrows say %q", pkg, cell, imports)
		}
		for _, other := range imports {
			other = strings.TrimSuffix(other, "/keybroker/v1")
			below := strings.HasPrefix(other, pkg+"/") && slices.Contains(said, pkg+"/*")
			if !below && !slices.Contains(said, other) {
				t.Errorf("CONTRIBUTING.md does not say that %s may import %s", pkg, other)
			}
		}
	}
}
