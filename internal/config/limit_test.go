package config_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/envelope"
	"github.com/keybroker/keybroker/internal/config"
)

func TestLimitsAreTheEnvelopes(t *testing.T) {
	for _, limit := range []struct {
		name       string
		here, want int
	}{
		{"recipients", config.MaxRecipients, envelope.MaxRecipients},
		{"static pairs", config.MaxStaticPairs, envelope.MaxContextPairs - 1},
		{"context bytes", config.MaxContextBytes, envelope.MaxContextBytes},
		{"IK part", config.MaxIKPart, envelope.MaxIKPart},
	} {
		if limit.here != limit.want {
			t.Errorf("%s: %d, and %d in the envelope", limit.name, limit.here, limit.want)
		}
	}
	for _, name := range []string{"a", "0", "tikv", "a.b_c-d", strings.Repeat("a", 64), strings.Repeat("a", 65), "A", "-a", ".a", "_a", "a b", "ä", "a/b"} {
		_, err := config.Parse("c.yaml", []byte(compose(t, base, fmt.Sprintf("keys: {%q: {recipients: [{backend: local, key: k}]}}\nclients: {}", name))), environment())
		if (err == nil) != envelope.ValidKeyName(name) {
			t.Errorf("%q: %v, as the envelope has it: %v", name, err, envelope.ValidKeyName(name))
		}
	}
	// A reference has room for the longest that the configuration takes: id,
	// namespace, mount and key, with what separates them.
	if n := 64 + 2*config.MaxMountPath + 128 + 16; n > envelope.MaxReference {
		t.Errorf("a reference could take %d bytes, and %d fit the envelope", n, envelope.MaxReference)
	}
}

// pairs is a context of n pairs whose canonical encoding takes size bytes.
func pairs(n, size int) map[string]string {
	m := map[string]string{}
	for i := range n {
		m[fmt.Sprintf("name-%02d", i)] = ""
	}
	m["name-00"] = strings.Repeat("v", size-4-n*(8+len("name-00")))
	return m
}

// flow is m as YAML.
func flow(m map[string]string) string {
	var b strings.Builder
	for name, value := range m {
		fmt.Fprintf(&b, "%q: %q, ", name, value)
	}
	return "{" + b.String() + "}"
}

// A former context is only compared, the present one must fit an envelope, too.
func TestContextLimits(t *testing.T) {
	const key = "keys: {tikv: {recipients: [%s], context: %s, former_contexts: [%s]}}"
	one := "{backend: local, key: tikv}"
	eight := make([]string, 8)
	for i := range eight {
		eight[i] = fmt.Sprintf("{backend: local, key: tikv%d}", i)
	}
	least := func(recipients, name int) int {
		return config.MaxIKPart - config.IKPartFrame - len("tikv") - recipients*(config.LeastRecipient+name)
	}
	whole := config.MaxContextBytes - 8 - len("keybroker:key") - len("tikv")
	for _, test := range []struct {
		name, recipients string
		context, former  map[string]string
		want             string
	}{
		{"all pairs", one, pairs(63, 1200), nil, ""},
		{"too many pairs", one, pairs(64, 1200), nil, "keys.tikv.context: found 64 pairs; want at most 63"},
		{"too many former pairs", one, nil, pairs(64, 1200), "keys.tikv.former_contexts[0]: found 64 pairs; want at most 63"},
		{"former pairs as large as may be", one, nil, pairs(3, whole), ""},
		{"former pairs too large", one, nil, pairs(3, whole+1),
			"keys.tikv.former_contexts[0]: found 8193 bytes, with the key's name and 8 for each pair; want at most 8192 bytes"},
		{"pairs too large for any context", one, pairs(3, whole+1), nil,
			"keys.tikv.context: found 8193 bytes, with the key's name and 8 for each pair; want at most 8192 bytes"},
		{"pairs as large as an envelope has room for", one, pairs(3, least(1, 4)), nil, ""},
		{"pairs too large for an envelope", one, pairs(3, least(1, 4)+1), nil,
			"keys.tikv.context: found 5893 bytes, with 8 for each pair, which fit no envelope beside the key's name and its recipients; want at most 5892 bytes, and better much less"},
		{"eight recipients", strings.Join(eight, ", "), pairs(1, least(8, 5)), nil, ""},
		{"too large beside eight recipients", strings.Join(eight, ", "), pairs(1, least(8, 5)+100), nil,
			"keys.tikv.context: found 5459 bytes, with 8 for each pair, which fit no envelope beside the key's name and its recipients; want at most 5359 bytes, and better much less"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := compose(t, base, fmt.Sprintf(key, test.recipients, flow(test.context), flow(test.former)))
			c, err := config.Parse("c.yaml", []byte(text), environment())
			if test.want != "" {
				if err == nil {
					t.Fatal("it is accepted")
				}
				if _, told, _ := strings.Cut(err.Error(), ": "); told != test.want {
					t.Errorf("%s\nwant: %s", told, test.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, context := range append(c.Keys[0].FormerContexts, c.Keys[0].Context) {
				checkContext(t, c.Keys[0].Name, context)
			}
		})
	}
}

// What the loader refuses for its size, the envelope refuses for certain.
func TestContextsThatAreTooLargeFitNoEnvelope(t *testing.T) {
	for n := 1; n <= config.MaxRecipients; n++ {
		recipients := make([]envelope.Recipient, n)
		for i := range recipients {
			recipients[i] = envelope.Recipient{
				Provider: "file", Reference: "tikv", Binding: backends.BindingAAD,
				Wrapped: make([]byte, config.LeastRecipient-7-len("file")),
			}
		}
		room := config.MaxIKPart - config.IKPartFrame - len("tikv") - n*(config.LeastRecipient+len("tikv"))
		for size, fits := range map[int]bool{room: true, room + 1: false} {
			p, err := envelope.NewPairs(pairs(2, size))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := envelope.NewIKPart("tikv", p, recipients, bytes.Repeat([]byte{1}, envelope.IKSize)); (err == nil) != fits {
				t.Errorf("%d recipients and pairs of %d bytes: %v", n, size, err)
			}
		}
	}
}

// checkContext holds that the envelope takes a key's static pairs.
func checkContext(t *testing.T, key string, context map[string]string) {
	t.Helper()
	p, err := envelope.NewPairs(context)
	if err != nil {
		t.Errorf("key %s: %v", key, err)
		return
	}
	if _, err := envelope.AssociatedPairs(key, p); err != nil {
		t.Errorf("key %s: %v", key, err)
	}
}
