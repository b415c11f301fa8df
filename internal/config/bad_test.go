package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/internal/config"
)

// planted stands in the secrets of test files.
const planted = "PLANTED"

// badFiles are the files under testdata/bad by name, each with the problems that
// it should have, one a line.
func badFiles(t *testing.T) map[string]struct{ yaml, problems string } {
	t.Helper()
	paths, err := filepath.Glob("testdata/bad/*")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no bad files: %v", err)
	}
	files := map[string]struct{ yaml, problems string }{}
	for _, path := range paths {
		name, ext := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)), filepath.Ext(path)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f := files[name]
		switch ext {
		case ".yaml":
			f.yaml = string(text)
		case ".txt":
			f.problems = string(text)
		default:
			t.Errorf("%s is neither YAML nor its problems", path)
		}
		files[name] = f
	}
	return files
}

// The problems of each file, to the letter. Nothing writes them anew: whoever
// changes a message changes it here, too, and reads it as an operator will.
func TestBadFiles(t *testing.T) {
	for name, f := range badFiles(t) {
		t.Run(name, func(t *testing.T) {
			c, err := config.Parse(name+".yaml", []byte(f.yaml), environment())
			if err == nil {
				t.Fatal("it is accepted")
			}
			if c != nil {
				t.Error("there is a Config beside the error")
			}
			if got := err.Error() + "\n"; got != f.problems {
				t.Errorf("%s", difference(got, f.problems))
			}
			checkProblems(t, name+".yaml", f.yaml, err)
			if strings.Contains(err.Error(), planted) {
				t.Error("a secret is repeated")
			}
		})
	}
}

// difference shows the lines that only one of two texts has.
func difference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	var b strings.Builder
	for _, line := range w {
		if !slices.Contains(g, line) {
			b.WriteString("\nwant: " + line)
		}
	}
	for _, line := range g {
		if !slices.Contains(w, line) {
			b.WriteString("\ngot:  " + line)
		}
	}
	if b.Len() == 0 {
		return "the same lines in another order:\n" + got
	}
	return b.String()
}

// checkProblems holds that err is Problems that an editor can go to.
func checkProblems(t *testing.T, name, text string, err error) {
	t.Helper()
	var problems config.Problems
	if !errors.As(err, &problems) || len(problems) == 0 {
		t.Fatalf("%T is no Problems", err)
	}
	checkPlaces(t, name, text, problems)
}

// checkPlaces holds that problems stand in the file, and in its order.
func checkPlaces(t *testing.T, name, text string, problems config.Problems) {
	t.Helper()
	lines := strings.Split(text, "\n")
	if len(lines) > 1 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1] // what follows the last newline is no line
	}
	for i, p := range problems {
		switch {
		case p.File != name:
			t.Errorf("%v: its file is %q", p, p.File)
		case p.Line < 1 || p.Line > len(lines):
			t.Errorf("%v: the file has %d lines", p, len(lines))
		case p.Column < 1 || p.Column > max(1, len([]rune(lines[p.Line-1])))+1:
			t.Errorf("%v: the line is %q", p, lines[p.Line-1])
		case p.Found == "" || p.Want == "":
			t.Errorf("%v: it does not say what was found and what is right", p)
		case strings.ContainsAny(p.String(), "\n\r\t\x00"):
			t.Errorf("%q is not one line", p.String())
		case i > 0 && (p.Line < problems[i-1].Line || p.Line == problems[i-1].Line && p.Column < problems[i-1].Column):
			t.Errorf("%v comes after %v", p, problems[i-1])
		}
	}
}

func TestTwelveMistakesAreTwelveProblems(t *testing.T) {
	f := badFiles(t)["twelve"]
	_, err := config.Parse("twelve.yaml", []byte(f.yaml), environment())
	var problems config.Problems
	if !errors.As(err, &problems) || len(problems) != 12 {
		t.Errorf("%d problems:\n%v", len(problems), err)
	}
}

// Whatever the schema can refuse, a bad file shows it.
func TestBadFilesCoverTheSchema(t *testing.T) {
	var all strings.Builder
	for _, f := range badFiles(t) {
		all.WriteString(f.problems)
	}
	shown := func(t *testing.T, key, found string) {
		t.Helper()
		line := regexp.MustCompile(`(?m)^[a-z0-9-]+\.yaml:\d+:\d+: ` + key + `: found ` + found)
		if !line.MatchString(all.String()) {
			t.Errorf("no bad file has a problem like %v", line)
		}
	}
	for block, entries := range config.Schema() {
		prefix := blockPattern(block)
		shown(t, prefix+`[a-z_.-]+`, `an unknown key;`)
		for _, e := range entries {
			key := prefix + e.Name
			switch {
			case e.Later:
				shown(t, key, `a key that this version of keybroker does not have yet`)
				continue
			case e.Required:
				shown(t, key, `nothing; want a value: the key is required`)
			}
			if e.When != "" {
				shown(t, key, `a key for `+e.When+`: `+strings.Join(e.In, " or ")+`, but this is `+e.When+`: `)
			}
			if len(e.Choices) > 0 {
				shown(t, key, `"[^"]*"; want one of `+strings.Join(e.Choices, ", "))
			}
		}
	}
}

// blockPattern matches the path of a block of the schema, with the dot after it.
func blockPattern(block string) string {
	if block == "" {
		return ""
	}
	pattern := strings.NewReplacer(".", `\.`, "NAME", `[a-z0-9_-]+`, "[]", `\[\d+\]`).Replace(block)
	return pattern + `\.`
}
