package envelope_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/envelope"
)

// The document's example is a golden vector, byte for byte.
func TestDocumentExample(t *testing.T) {
	text, err := os.ReadFile("../../docs/envelope.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, ok := strings.Cut(string(text), "\n## Example\n")
	if !ok {
		t.Fatal("the document has no example")
	}
	example, _, _ = strings.Cut(example, "\n## ")
	v := readGolden(t)["one-recipient"]

	row := regexp.MustCompile("(?m)^\\| (\\d+) \\| (\\d+) \\| (`[0-9a-f`<br>]+`) \\| [^|]+ \\|$")
	var whole []byte
	for _, m := range row.FindAllStringSubmatch(example, -1) {
		field, err := hex.DecodeString(strings.NewReplacer("`", "", "<br>", "").Replace(m[3]))
		if err != nil {
			t.Fatal(err)
		}
		if m[1] != strconv.Itoa(len(whole)) || m[2] != strconv.Itoa(len(field)) {
			t.Errorf("row %q: offset %d and length %d are right", m[0], len(whole), len(field))
		}
		whole = append(whole, field...)
	}
	if string(whole) != string(v.Envelope) {
		t.Errorf("the table holds\n%x, want\n%x", whole, v.Envelope)
	}

	k, err := bookRead(v.Envelope)
	if err != nil {
		t.Fatal(err)
	}
	derived := sha256.Sum256(v.Associated)
	for what, value := range map[string]string{
		"IK":               "    " + hex.EncodeToString(v.IK) + "\n",
		"associated pairs": hex.EncodeToString(v.Associated),
		"derived":          hex.EncodeToString(derived[:]),
		"hash":             hex.EncodeToString(backends.BindHash(nil, v.Associated)),
		"IK part":          hex.EncodeToString(v.IKPartSHA256),
		"header":           hex.EncodeToString(v.HeaderSHA256),
		"derived key":      hex.EncodeToString(v.SealKey),
		"AAD":              fmt.Sprintf("`%08x`, the header, `00000000`", len(k.header())),
		"plaintext":        hex.EncodeToString(v.Plaintext),
	} {
		if !strings.Contains(example, value) {
			t.Errorf("%s: the example lacks %s", what, value)
		}
	}
}

// The document's sizes are those of real envelopes.
func TestDocumentSizes(t *testing.T) {
	text, err := os.ReadFile("../../docs/envelope.md")
	if err != nil {
		t.Fatal(err)
	}
	recipient := func(provider string, reference int, version string, wrapped int) envelope.Recipient {
		return envelope.Recipient{
			Provider: provider, Reference: strings.Repeat("r", reference), Version: version,
			Binding: backends.BindingAAD, Wrapped: make([]byte, wrapped),
		}
	}
	var (
		ik     = testIK("sizes")
		file   = recipient("file", 21, "1", 60)
		vault  = recipient("vault-transit", 50, "1", 89)
		aws    = recipient("aws-kms", 75, "", 184)
		gcp    = recipient("gcp-kms", 69, "1", 113)
		static = map[string]string{"cluster": "prod-1"}
	)
	for _, test := range []struct {
		row        string
		static     map[string]string
		recipients []envelope.Recipient
	}{
		{"| file | none | %d |", nil, []envelope.Recipient{file}},
		{"| Vault Transit | none | %d |", nil, []envelope.Recipient{vault}},
		{"| Vault Transit, AWS KMS | `{\"cluster\": \"prod-1\"}` | %d |", static, []envelope.Recipient{vault, aws}},
		{"| Vault Transit, AWS KMS, Google Cloud KMS | `{\"cluster\": \"prod-1\"}` | %d |", static, []envelope.Recipient{vault, aws, gcp}},
	} {
		b := mustSeal(t, mustIKPart(t, "tikv", test.static, test.recipients, ik), ik, nil, testPlaintext(32))
		if row := fmt.Sprintf(test.row, len(b)-32); !strings.Contains(string(text), row) {
			t.Errorf("the document lacks %q", row)
		}
	}
}
