package main

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestOutFileRace has many write one name at once: one of them has it, whole, and
// the others are told.
func TestOutFileRace(t *testing.T) {
	for name, write := range map[string]func(outFile, []byte) error{
		"by a link": outFile.write, "without links": outFile.create,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			o := outFile{name: filepath.Join(dir, "a.key")}
			contents := []string{strings.Repeat("a", 4096), strings.Repeat("b", 4096), strings.Repeat("c", 4096), strings.Repeat("d", 4096)}
			errs := make([]error, len(contents))
			var done sync.WaitGroup
			for i, c := range contents {
				done.Go(func() { errs[i] = write(o, []byte(c)) })
			}
			done.Wait()
			got, err := os.ReadFile(o.name)
			if err != nil {
				t.Fatal(err)
			}
			winners := 0
			for i, err := range errs {
				switch {
				case err == nil:
					winners++
					if string(got) != contents[i] {
						t.Errorf("writer %d was told that it succeeded, and the file has %.8q", i, got)
					}
				case err.Error() != o.name+" exists; choose another name, or --force":
					t.Errorf("writer %d: %v", i, err)
				}
			}
			if winners != 1 {
				t.Errorf("%d writers were told that they succeeded", winners)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
				t.Errorf("left behind: %v, %v", entries, err)
			}
		})
	}
}
