package tikv

import (
	"cmp"
	"fmt"
	"slices"
)

// Severity says what a problem comes to.
type Severity string

const (
	// Fatal means that the store would not start, or would not encrypt.
	Fatal Severity = "error"
	// Doubtful means that it may not be meant, or fails under a condition that is
	// named.
	Doubtful Severity = "warning"
)

// Problem is one thing that is wrong with a store's configuration.
type Problem struct {
	Severity Severity
	// Line and Column count from 1, Column in bytes. Both are 0 if it is about what
	// is not in the file.
	Line, Column int
	// Key is the path of the key, such as security.encryption.master-key.vendor.
	// Empty if it is not about one.
	Key string
	// Found is what there is. It never holds a secret.
	Found string
	// Want is what would be right.
	Want string
}

// Text returns the problem in one line, as one of file.
func (p Problem) Text(file string) string {
	at := file
	if p.Line > 0 {
		at = fmt.Sprintf("%s:%d:%d", file, p.Line, p.Column)
	}
	key := ""
	if p.Key != "" {
		key = p.Key + ": "
	}
	return fmt.Sprintf("%s: %s: %sfound %s; want %s", at, p.Severity, key, p.Found, p.Want)
}

// Failing tells how many of the problems are fatal.
func Failing(problems []Problem) int {
	n := 0
	for _, p := range problems {
		if p.Severity == Fatal {
			n++
		}
	}
	return n
}

// inOrder puts the problems into the order of the file.
func inOrder(problems []Problem) {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}
