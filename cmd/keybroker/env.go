package main

import (
	"io"
	"os"

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

// Program is how to call this program again, from the same directory, in a line
// to paste.
func (e *Env) Program() string { return quote(e.Args0) }

// colour tells whether what goes to stdout may be coloured.
func (e *Env) colour() bool {
	return e.StdoutTerminal && e.Getenv("NO_COLOR") == "" && e.Getenv("TERM") != "dumb"
}
