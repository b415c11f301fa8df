package envelope_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/envelope"
)

// golden is one file of testdata/golden: its README says what each field means.
type golden struct {
	About         string            `json:"about"`
	FormatVersion int               `json:"format_version"`
	IK            hexBytes          `json:"ik"`
	Context       map[string]string `json:"context"`
	Plaintext     hexBytes          `json:"plaintext"`
	KeyName       string            `json:"key_name"`
	StaticPairs   map[string]string `json:"static_pairs"`
	Recipients    []goldenRecipient `json:"recipients"`
	CreatedAt     time.Time         `json:"created_at"`
	Associated    hexBytes          `json:"associated_pairs"`
	Commitment    hexBytes          `json:"commitment"`
	IKPartSHA256  hexBytes          `json:"ik_part_sha256"`
	HeaderSHA256  hexBytes          `json:"header_sha256"`
	SealKey       hexBytes          `json:"seal_key"`
	Envelope      hexBytes          `json:"envelope"`
}

type goldenRecipient struct {
	Provider  string   `json:"provider"`
	Reference string   `json:"reference"`
	Version   string   `json:"version"`
	Binding   string   `json:"binding"`
	Wrapped   hexBytes `json:"wrapped"`
}

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

func readGolden(t testing.TB) map[string]golden {
	t.Helper()
	files, err := filepath.Glob("testdata/golden/*.json")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("no golden vectors")
	}
	vectors := map[string]golden{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var v golden
		d := json.NewDecoder(bytes.NewReader(b))
		d.DisallowUnknownFields()
		if err := d.Decode(&v); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		vectors[strings.TrimSuffix(filepath.Base(file), ".json")] = v
	}
	return vectors
}

// Every golden vector is as it was on the day it was written: a change of one
// would be a change of what can be unwrapped.
func TestGoldenFilesAreUnchanged(t *testing.T) {
	sums, err := os.ReadFile("testdata/golden/SHA256SUMS")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("testdata/golden/*.json")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{}
	for line := range strings.Lines(string(sums)) {
		sum, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if !ok {
			t.Fatalf("SHA256SUMS: %q", line)
		}
		listed[name] = sum
	}
	if len(listed) != len(files) {
		t.Errorf("SHA256SUMS lists %d files, there are %d: a vector was removed, or added without a line", len(listed), len(files))
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := fmt.Sprintf("%x", sha256.Sum256(b)), listed[filepath.Base(file)]; got != want {
			t.Errorf("%s has changed: golden vectors never change (SHA-256 %s, want %s)", file, got, want)
		}
	}
}

func TestGolden(t *testing.T) {
	for name, v := range readGolden(t) {
		t.Run(name, func(t *testing.T) {
			context := mustPairs(t, v.Context)
			plaintext, err := unwrap(v.Envelope, v.IK, context)
			if err != nil || !bytes.Equal(plaintext, v.Plaintext) {
				t.Fatalf("unwrap: %x, %v", plaintext, err)
			}

			e, err := envelope.Parse(v.Envelope)
			if err != nil {
				t.Fatal(err)
			}
			if got := e.IK().KeyName(); got != v.KeyName {
				t.Errorf("key name %q, want %q", got, v.KeyName)
			}
			if got := e.IK().Pairs().Map(); !maps.Equal(got, v.StaticPairs) {
				t.Errorf("static pairs %q, want %q", got, v.StaticPairs)
			}
			if got := e.CreatedAt(); !got.Equal(v.CreatedAt) {
				t.Errorf("created at %v, want %v", got, v.CreatedAt)
			}
			if got := e.PlaintextSize(); got != len(v.Plaintext) {
				t.Errorf("plaintext of %d bytes, want %d", got, len(v.Plaintext))
			}
			if got := e.IK().Associated().Canonical(); !bytes.Equal(got, v.Associated) {
				t.Errorf("associated pairs %x, want %x", got, v.Associated)
			}
			if got := e.IK().ID(); !bytes.Equal(got[:], v.IKPartSHA256) {
				t.Errorf("IK part's SHA-256 %x, want %x", got, v.IKPartSHA256)
			}

			// The IK part is written again byte for byte; the commitment with it.
			p, err := envelope.NewIKPart(v.KeyName, mustPairs(t, v.StaticPairs), v.recipients(t), v.IK)
			if err != nil {
				t.Fatal(err)
			}
			if p.ID() != e.IK().ID() {
				t.Errorf("the IK part is now written otherwise: %x, want %x", p.ID(), e.IK().ID())
			}
			if got, want := fmt.Sprint(e.IK().Recipients()), fmt.Sprint(v.recipients(t)); got != want {
				t.Errorf("recipients %s, want %s", got, want)
			}

			// The wrong context opens nothing.
			other := context.Map()
			other["not in the vector"] = ""
			if plaintext, err := unwrap(v.Envelope, v.IK, mustPairs(t, other)); plaintext != nil || !errors.Is(err, envelope.ErrOpen) {
				t.Errorf("another context: %x, %v", plaintext, err)
			}
		})
	}
}

// The document alone opens them too, with all the values on the way.
func TestGoldenByTheDocument(t *testing.T) {
	for name, v := range readGolden(t) {
		t.Run(name, func(t *testing.T) {
			plaintext, err := bookOpen(v.Envelope, v.IK, v.Context)
			if err != nil || !bytes.Equal(plaintext, v.Plaintext) {
				t.Fatalf("%x, %v", plaintext, err)
			}
			k, err := bookRead(v.Envelope)
			if err != nil {
				t.Fatal(err)
			}
			ikPart, header := sha256.Sum256(k.ikPart()), sha256.Sum256(k.header())
			associated := bookPairs(v.StaticPairs)
			associated = append(associated, bookPair{"keybroker:key", v.KeyName})
			m := map[string]string{}
			for _, pair := range associated {
				m[pair.name] = pair.value
			}
			for what, pair := range map[string][2][]byte{
				"associated pairs": {bookCanonical(bookPairs(m)), v.Associated},
				"commitment":       {k.commitment, v.Commitment},
				"ik_part_sha256":   {ikPart[:], v.IKPartSHA256},
				"header_sha256":    {header[:], v.HeaderSHA256},
				"seal_key":         {k.bookKey(v.IK), v.SealKey},
			} {
				if !bytes.Equal(pair[0], pair[1]) {
					t.Errorf("%s: %x, want %x", what, pair[0], pair[1])
				}
			}
		})
	}
}

func (v golden) recipients(t testing.TB) []envelope.Recipient {
	t.Helper()
	bindings := map[string]backends.Binding{"aad": 1, "derived": 2, "hash": 3}
	var recipients []envelope.Recipient
	for _, r := range v.Recipients {
		binding, ok := bindings[r.Binding]
		if !ok || binding.String() != r.Binding {
			t.Fatalf("binding %q", r.Binding)
		}
		recipients = append(recipients, envelope.Recipient{
			Provider: r.Provider, Reference: r.Reference, Version: r.Version, Binding: binding, Wrapped: r.Wrapped,
		})
	}
	return recipients
}

// The vectors cover what the format can hold.
func TestGoldenCoversTheFormat(t *testing.T) {
	missing := map[string]bool{}
	for _, what := range []string{
		"1 recipients", "3 recipients", "8 recipients", "binding aad", "binding derived", "binding hash",
		"16 bytes", "32 bytes", "64 bytes", "4096 bytes", "6144 in all",
		"no context", "rich context", "no static pairs", "static pairs", "beyond ASCII", "no key version", "key version",
	} {
		missing[what] = true
	}
	for _, v := range readGolden(t) {
		delete(missing, fmt.Sprintf("%d recipients", len(v.Recipients)))
		delete(missing, fmt.Sprintf("%d bytes", len(v.Plaintext)))
		delete(missing, fmt.Sprintf("%d in all", len(v.Envelope)))
		for _, r := range v.Recipients {
			delete(missing, "binding "+r.Binding)
			if r.Version == "" {
				delete(missing, "no key version")
			} else {
				delete(missing, "key version")
			}
		}
		if len(v.Context) == 0 {
			delete(missing, "no context")
		}
		if len(v.Context) > 2 {
			delete(missing, "rich context")
		}
		if len(v.StaticPairs) == 0 {
			delete(missing, "no static pairs")
		} else {
			delete(missing, "static pairs")
		}
		for name := range v.Context {
			if strings.ContainsFunc(name, func(r rune) bool { return r > 127 }) {
				delete(missing, "beyond ASCII")
			}
		}
	}
	for what := range missing {
		t.Errorf("no vector has %s", what)
	}
}
