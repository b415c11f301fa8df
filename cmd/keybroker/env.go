package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/term"
)

// Env is what a command takes from its process, so that tests can give it
// another.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// StdoutTerminal and StderrTerminal: a person is looking.
	StdoutTerminal, StderrTerminal bool
	// StdinTerminal: a person would have to type.
	StdinTerminal bool
	Getenv        func(string) string
	// Args0 is how the program was called.
	Args0 string
}

func systemEnv() *Env {
	return &Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		StdoutTerminal: term.IsTerminal(int(os.Stdout.Fd())),
		StderrTerminal: term.IsTerminal(int(os.Stderr.Fd())),
		StdinTerminal:  term.IsTerminal(int(os.Stdin.Fd())),
		Getenv:         os.Getenv,
		Args0:          os.Args[0],
	}
}

// Program is how to call this program again, from any directory, in a line to
// paste.
func (e *Env) Program() string {
	name := e.Args0
	if strings.ContainsRune(name, filepath.Separator) { // else the shell found it in $PATH
		if absolute, err := filepath.Abs(name); err == nil {
			name = absolute
		}
	}
	return quote(name)
}

// colour tells whether what goes to stdout may be coloured.
func (e *Env) colour() bool {
	return e.StdoutTerminal && e.Getenv("NO_COLOR") == "" && e.Getenv("TERM") != "dumb"
}
