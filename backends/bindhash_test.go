package backends_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"testing"

	"github.com/keybroker/keybroker/backends"
)

// The hashes were computed with sha256sum from the words of the definition, and
// never change: wraps with them are in envelopes.
func TestBindHashGolden(t *testing.T) {
	for name, test := range map[string]struct {
		plaintext      string
		associatedData string
		hash           string
	}{
		// printf 'keybroker/v1/bind' | sha256sum
		"nothing": {"k", "", "bddc3aff293462afb114f409f6db6674c414936eaff3a4b8a62d5370ebbd17f6"},
		// printf 'keybroker/v1/bind\x00\x00\x00\x01\x00\x00\x00\x01a\x00\x00\x00\x02bc' | sha256sum
		"a pair": {
			"an intermediate key of 32 bytes.", "\x00\x00\x00\x01\x00\x00\x00\x01a\x00\x00\x00\x02bc",
			"89c6bb0b4b166669154c802c2a6cc9aec750320bfe359cadf4339ca4100391f2",
		},
	} {
		got := backends.BindHash([]byte(test.plaintext), []byte(test.associatedData))
		if want := test.plaintext + unhex(t, test.hash); string(got) != want {
			t.Errorf("%s: %x, want %x", name, got, want)
		}
		back, err := backends.UnbindHash(got, []byte(test.associatedData))
		if err != nil || string(back) != test.plaintext {
			t.Errorf("%s: %q, %v", name, back, err)
		}
	}
}

func unhex(t *testing.T, s string) string {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestUnbindHash(t *testing.T) {
	associated := []byte("\x00\x00\x00\x01\x00\x00\x00\x01a\x00\x00\x00\x02bc")
	for _, size := range []int{1, 16, 32, 64} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			plaintext := bytes.Repeat([]byte{0x5a}, size)
			bound := backends.BindHash(plaintext, associated)
			got, err := backends.UnbindHash(bound, associated)
			if err != nil || !bytes.Equal(got, plaintext) {
				t.Fatalf("%x, %v", got, err)
			}
			if &got[0] != &bound[0] || cap(got) != size {
				t.Error("it is a copy, or reaches into the hash")
			}
			refused := func(what string, bound, associated []byte) {
				t.Helper()
				if got, err := backends.UnbindHash(bound, associated); got != nil || !errors.Is(err, backends.ErrBinding) {
					t.Errorf("%s: %x, %v", what, got, err)
				}
			}
			// The hash is of the associated data alone: what is before it is the
			// cipher's to authenticate.
			for i := 8 * size; i < 8*len(bound); i++ {
				flipped := bytes.Clone(bound)
				flipped[i/8] ^= 1 << (i % 8)
				refused("a flipped bit of the hash", flipped, associated)
			}
			for i := range 8 * len(associated) {
				flipped := bytes.Clone(associated)
				flipped[i/8] ^= 1 << (i % 8)
				refused("a flipped bit of the associated data", bound, flipped)
			}
			for n := range bound {
				refused("a prefix", bound[:n], associated)
			}
			refused("a byte more", append(bytes.Clone(bound), 0), associated)
			refused("no associated data", bound, nil)
			refused("the hash alone", bound[size:], associated)
			refused("bound twice", backends.BindHash(bound, nil), associated)
		})
	}
	got, err := backends.UnbindHash(backends.BindHash(nil, associated), associated)
	if got != nil || !errors.Is(err, backends.ErrBinding) {
		t.Errorf("no plaintext: %x, %v", got, err)
	}
}

func TestBindHashKeepsItsArguments(t *testing.T) {
	plaintext, associated := append([]byte("plaintext"), 1, 2, 3)[:9], append([]byte("data"), 4, 5)[:4]
	bound := backends.BindHash(plaintext, associated)
	if string(plaintext[:12]) != "plaintext\x01\x02\x03" || string(associated[:6]) != "data\x04\x05" {
		t.Error("BindHash wrote into its arguments")
	}
	clear(bound)
	if string(plaintext) != "plaintext" {
		t.Error("the result shares the plaintext's bytes")
	}
}

// That a comparison takes constant time cannot be seen from outside without
// measuring it: the source shows which one it is.
func TestUnbindHashComparesInConstantTime(t *testing.T) {
	parsed, err := parser.ParseFile(token.NewFileSet(), "bindhash.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]bool{}
	for _, d := range parsed.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Name.Name == "UnbindHash" {
			ast.Inspect(f, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok {
					if s, ok := call.Fun.(*ast.SelectorExpr); ok {
						if x, ok := s.X.(*ast.Ident); ok {
							calls[x.Name+"."+s.Sel.Name] = true
						}
					}
				}
				return true
			})
		}
	}
	if !calls["subtle.ConstantTimeCompare"] || calls["bytes.Equal"] || calls["bytes.Compare"] {
		t.Errorf("UnbindHash calls %v", calls)
	}
}
