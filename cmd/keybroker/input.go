package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/keybroker/keybroker/broker/envelope"
)

// maxInput is more than any data key or wrapped key in base64 takes.
const maxInput = 64 << 10

// read reads the file called name, or stdin if that is empty or "-".
func (e *Env) read(name, what string) ([]byte, error) {
	in, source := e.Stdin, "standard input"
	if name != "" && name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, usageError(err)
		}
		defer func() { _ = f.Close() }()
		in, source = f, name
	} else if e.StdinTerminal {
		fmt.Fprintf(e.Stderr, "reading %s from the terminal; end it with Ctrl-D\n", what)
	}
	b, err := io.ReadAll(io.LimitReader(in, maxInput+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxInput {
		clear(b)
		return nil, usageError(fmt.Errorf("%s is larger than any %s", source, what))
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return nil, usageError(fmt.Errorf("%s is empty; want %s", source, what))
	}
	return b, nil
}

// readWrapped reads a wrapped key, in base64 or as raw bytes: the two cannot be
// taken for each other.
func (e *Env) readWrapped(name string) ([]byte, error) {
	const what = "a wrapped key"
	b, err := e.read(name, what)
	if err != nil || bytes.HasPrefix(b, []byte(envelope.Magic)) {
		return b, err
	}
	wrapped, err := decodeBase64(b)
	if err != nil {
		return nil, usageError(fmt.Errorf("%s is not %s, neither raw nor in base64", source(name), what))
	}
	return wrapped, nil
}

// readPlaintext reads a data key: in base64, or as raw bytes if raw.
func (e *Env) readPlaintext(name string, raw bool) ([]byte, error) {
	const what = "a data key"
	b, err := e.read(name, what)
	if err != nil || raw {
		return b, err
	}
	defer clear(b)
	plaintext, err := decodeBase64(b)
	if err != nil {
		return nil, usageError(fmt.Errorf("%s is not %s in base64; --raw takes it as it is", source(name), what))
	}
	return plaintext, nil
}

func source(name string) string {
	if name == "" || name == "-" {
		return "standard input"
	}
	return name
}

// errBase64 stands for the library's errors, which quote the input.
var errBase64 = errors.New("not base64")

func decodeBase64(b []byte) ([]byte, error) {
	b = bytes.TrimSpace(b)
	out := make([]byte, base64.StdEncoding.DecodedLen(len(b)))
	n, err := base64.StdEncoding.Strict().Decode(out, b)
	if err != nil {
		clear(out)
		return nil, errBase64
	}
	return out[:n], nil
}

// encoded returns b as it is printed and written to files: in base64 with a
// newline, or as it is if raw. The caller wipes it if b is a secret.
func encoded(b []byte, raw bool) []byte {
	if raw {
		return bytes.Clone(b)
	}
	out := make([]byte, base64.StdEncoding.EncodedLen(len(b)), base64.StdEncoding.EncodedLen(len(b))+1)
	base64.StdEncoding.Encode(out, b)
	return append(out, '\n')
}

// pairs is the value of --context: NAME=VALUE, as often as needed.
type pairs map[string]string

// String implements pflag.Value.
func (p pairs) String() string { return "" }

// Type implements pflag.Value.
func (p pairs) Type() string { return "NAME=VALUE" }

// Set implements pflag.Value.
func (p pairs) Set(s string) error {
	name, value, ok := strings.Cut(s, "=")
	if !ok {
		return errors.New("want NAME=VALUE")
	}
	if _, there := p[name]; there {
		return fmt.Errorf("%s is given twice", name)
	}
	p[name] = value
	return nil
}
