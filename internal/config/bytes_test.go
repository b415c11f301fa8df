package config_test

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/internal/config"
)

// What a text file in the repository would not keep as it is, or would be too
// large for.
func TestBytes(t *testing.T) {
	const (
		look    = "YAML: look here, and just before, for a colon, quote, bracket or indentation that is wrong"
		empty   = "c.yaml:1:1: found an empty file; want a configuration that begins with version: 1"
		missing = "c.yaml:1:1: version: found nothing; want a value: the key is required\n" +
			"c.yaml:1:1: listen: found nothing; want a value: the key is required\n" +
			"c.yaml:1:1: backends: found nothing; want a value: the key is required\n" +
			"c.yaml:1:1: keys: found nothing; want a value: the key is required\n" +
			"c.yaml:1:1: audit: found nothing; want a value: the key is required"
	)
	dos := func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }
	for _, test := range []struct{ name, text, want string }{
		{"nothing", "", empty},
		{"empty lines", "\n\n \n", empty},
		{"a comment", "# version: 1\n", empty},
		{"a byte order mark", "\ufeff", empty},
		{"an empty document", "---\n", "c.yaml:1:1: found nothing; want a mapping (key: value)"},
		{"an ended document", "{}\n...\n", missing},
		{"directives", "%YAML 1.1\n%TAG ! tag:example.org,2026:\n---\n{}\n",
			"c.yaml:1:1: found a YAML directive; want the file without it\nc.yaml:2:1: found a YAML directive; want the file without it"},
		{"an empty second document", base + "---\n", "c.yaml:13:1: found a second YAML document; want one document a file"},

		{"as large as may be", base + "#" + strings.Repeat("x", config.MaxSize-len(base)-2) + "\n", ""},
		{"too large", base + "#" + strings.Repeat("x", config.MaxSize-len(base)-1) + "\n", "c.yaml:1:1: found more than 1 MiB; want a configuration of at most 1 MiB"},

		{"NUL", base + "# \x00\n", "c.yaml:13:3: found the character U+0000; want text without it"},
		{"an escape sequence", base + "# \x1b[31m\n# \x07\n", "c.yaml:13:3: found the character U+001B; want text without it\nc.yaml:14:3: found the character U+0007; want text without it"},
		{"DEL", "# äö\x7f\n", "c.yaml:1:5: found the character U+007F; want text without it"},
		{"next line", base + "# \u0085 x: y\n", "c.yaml:13:3: found the character U+0085; want text without it"},
		{"line separator", base + "# \u2028 x: y\n", "c.yaml:13:3: found the character U+2028; want text without it"},
		{"paragraph separator", base + "# \u2029 x: y\n", "c.yaml:13:3: found the character U+2029; want text without it"},
		{"a noncharacter", base + "# \uffff\n", "c.yaml:13:3: found the character U+FFFF; want text without it"},
		{"a byte order mark within", base + "\ufeff# \n", "c.yaml:13:1: found the character U+FEFF; want text without it"},
		{"not UTF-8", "version: 1\nnode: \xff\nlisten:\x80", "c.yaml:2:1: found bytes that are not UTF-8; want UTF-8"},
		{"half a character", "version: 1\nnode: \xc3", "c.yaml:2:1: found bytes that are not UTF-8; want UTF-8"},
		{"a surrogate", "node: \xed\xa0\x80", "c.yaml:1:1: found bytes that are not UTF-8; want UTF-8"},
		{"UTF-16", "\xff\xfev\x00e\x00r\x00", "c.yaml:1:1: found bytes that are not UTF-8; want UTF-8"},
		{"UTF-16 without a mark", "v\x00e\x00r\x00", "c.yaml:1:2: found the character U+0000; want text without it"},
		{"a surrogate as an escape", "node: \"\\ud800\"\n", "c.yaml:1:10: found text that is not YAML (while scanning a quoted scalar that begins in line 1, found invalid Unicode character escape code); want " + look},

		{"lines of DOS", dos(base), ""},
		{"a mark and lines of DOS", "\ufeff" + dos(base), ""},
		{"lines of DOS with a mistake", dos(base + "cash: {}\n"),
			"c.yaml:13:1: cash: found an unknown key; want one of version, node, listen, backends, keys, clients, audit, memory, cache"},
		{"a mark and a mistake", "\ufeffversion: 2\n", "c.yaml:1:10: version: found the number 2; want 1, the only version that this keybroker reads"},
		{"lines of old Macs", "version: 1\rnode: n1\r", "c.yaml:1:11: found the character U+000D; want text without it"},
		{"a carriage return in text", "version: 1\nnode: \"n\r1\"\n", "c.yaml:2:9: found the character U+000D; want text without it"},
		{"no newline at the end", strings.TrimSuffix(base, "\n") + "\ncache:", "c.yaml:13:7: cache: found nothing; want a mapping (key: value)"},

		// 日本語 is nine bytes, and 🔑 four bytes and two units of UTF-16: columns
		// count characters.
		{"columns", base + "cache: {\"日本語\": 🔑, capacity: 0}\n",
			"c.yaml:13:9: cache.\"日本語\": found an unknown key; want one of capacity, handover, persist\n" +
				"c.yaml:13:29: cache.capacity: found the number 0; want a whole number from 1 to 1048576, in decimal digits"},

		{"as deep as may be", base + "cache: " + strings.Repeat("[", 15) + "1" + strings.Repeat("]", 15) + "\n",
			"c.yaml:13:8: cache: found a list; want a mapping (key: value)"},
		{"too deep", base + "cache: " + strings.Repeat("[", 16) + "1" + strings.Repeat("]", 16) + "\n",
			"c.yaml:13:8: cache: found a list; want a mapping (key: value)\n" +
				"c.yaml:13:24: cache" + strings.Repeat("[0]", 16) + ": found a value nested too deep; want at most 16 levels"},
		{"deeper than the parser goes", strings.Repeat("[", 20000),
			"c.yaml:1:10001: found text that is not YAML (while increasing flow level that begins in line 1, exceeded max depth of 10000); want " + look},
		{"an alias bomb", "a: &a [x, x]\nb: &b [*a, *a]\nversion: 2\n",
			"c.yaml:1:4: a: found a YAML anchor; want the value without it; nothing may refer to another place\n" +
				"c.yaml:2:4: b: found a YAML anchor; want the value without it; nothing may refer to another place\n" +
				"c.yaml:2:8: b[0]: found a YAML alias; want the value itself, written out\n" +
				"c.yaml:2:12: b[1]: found a YAML alias; want the value itself, written out\n" +
				"c.yaml:3:10: version: found the number 2; want 1, the only version that this keybroker reads"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := config.Parse("c.yaml", []byte(test.text), environment())
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if sum := sha256.Sum256([]byte(test.text)); c.SHA256 != hex.EncodeToString(sum[:]) {
					t.Errorf("SHA256 is %s", c.SHA256)
				}
				return
			}
			if err == nil {
				t.Fatal("it is accepted")
			}
			if err.Error() != test.want {
				t.Errorf("%v\nwant: %s", err, test.want)
			}
			checkProblems(t, "c.yaml", test.text, err)
		})
	}
}
