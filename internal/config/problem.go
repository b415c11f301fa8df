package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	// File is the file's name as it was given.
	File string
	// Line and Column count from 1, Column in characters. Both are 0 if the file as
	// a whole is the problem.
	Line, Column int
	// Key is the path of the key, such as keys.tikv.recipients[0].backend. Empty if
	// it is not about one.
	Key string
	// Found is what there is. It never holds a value that may be a secret.
	Found string
	// Want is what would be right.
	Want string
}

// String returns the problem in one line.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": ")
	if p.Key != "" {
		b.WriteString(p.Key)
		b.WriteString(": ")
	}
	fmt.Fprintf(&b, "found %s; want %s", p.Found, p.Want)
	return b.String()
}

// Problems are all the problems of a configuration, in the order of the file. As
// an error they are never empty.
type Problems []Problem

// Error returns the problems, one a line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// sorted puts the problems into the order of the file.
func (ps Problems) sorted() Problems {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return ps
}
