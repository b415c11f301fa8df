package tikv

import (
	"fmt"
	"slices"
	"strings"
)

// The paths of what is checked.
const (
	masterKey   = "master-key"
	previousKey = "previous-master-key"
)

// The types of a master key (config.rs, MasterKeyConfig).
const (
	typePlaintext = "plaintext"
	typeFile      = "file"
	typeKMS       = "kms"
)

// masterKeyFields are what TiKV knows in a master key, of whatever type.
func masterKeyFields() []string {
	return []string{"type", "path", "key-id", "region", "endpoint", "vendor", "aws", "azure", "gcp"}
}

// Check tells what is wrong with a store's configuration, tikv.toml or
// tiflash-learner.toml, of which b is the content, if its master key is to come
// from broker. The problems are in the order of the file. No secret is in them.
//
// It judges as TiKV would: what TiKV reads with a default has that default, and
// what TiKV ignores without a word is told.
func Check(b []byte, broker Broker) []Problem {
	doc, problem := readDocument(b)
	if problem != nil {
		return []Problem{*problem}
	}
	c := &checker{doc: doc, broker: broker}
	c.encryption()
	inOrder(c.problems)
	return c.problems
}

type checker struct {
	doc      document
	broker   Broker
	problems []Problem
}

// found reports a problem with the key at path.
func (c *checker) found(s Severity, path []string, found, want string) {
	p := Problem{Severity: s, Key: strings.Join(path, "."), Found: found, Want: want}
	for n := len(path); n > 0; n-- { // of what is missing, the table
		if at, ok := c.doc.places[joined(path[:n])]; ok {
			p.Line, p.Column = at.line, at.column
			break
		}
	}
	c.problems = append(c.problems, p)
}

// encryption checks [security.encryption].
func (c *checker) encryption() {
	root := []string{"security", "encryption"}
	if _, there := c.doc.at(root); !there {
		c.found(Fatal, root, "nothing", "the table: without it nothing is encrypted; `keybroker tikv config` prints it")
		return
	}
	if !c.table(root, "data-encryption-method", "data-key-rotation-period", "enable-file-dictionary-log",
		"file-dictionary-rewrite-threshold", masterKey, previousKey, "v2-directory-whitelist") {
		return
	}
	c.method(append(slices.Clone(root), "data-encryption-method"))
	c.master(append(slices.Clone(root), masterKey))
}

// table reports what is no table, and keys in it that TiKV does not know.
func (c *checker) table(path []string, known ...string) bool {
	v, there := c.doc.at(path)
	if !there {
		return false
	}
	table, ok := v.(map[string]any)
	if !ok {
		c.found(Fatal, path, kindOf(v), "a table")
		return false
	}
	for name := range table {
		if whose := c.secretOf(name); whose != "" {
			c.found(Doubtful, path, whose+" as the name of a key", "it as a value, in quotes")
			continue
		}
		if !slices.Contains(known, name) {
			want := strings.Join(known, ", ")
			if i := slices.IndexFunc(known, func(k string) bool { return squash(k) == squash(name) }); i >= 0 {
				want = known[i]
			}
			c.found(Doubtful, append(slices.Clone(path), name), "a key that TiKV does not know, and ignores", want)
		}
	}
	return true
}

// squash is a key's name without what is easily mistaken in it.
func squash(name string) string {
	name = strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(name))
	switch name { // as AWS calls them
	case "accesskeyid":
		return "accesskey"
	case "secretkey":
		return "secretaccesskey"
	}
	return name
}

// text returns the text at path: empty if it is not there, not ok if it is not
// text, which is reported.
func (c *checker) text(path ...string) (s string, ok bool) {
	v, there := c.doc.at(path)
	if !there {
		return "", true
	}
	s, ok = v.(string)
	if !ok {
		c.found(Fatal, path, kindOf(v), "text, in quotes")
	}
	return s, ok
}

// method checks data-encryption-method, which TiKV reads in any case.
func (c *checker) method(path []string) {
	const want = `"aes256-ctr"`
	method, ok := c.text(path...)
	if !ok {
		return
	}
	switch strings.ToLower(method) {
	case "aes128-ctr", "aes192-ctr", "aes256-ctr", "sm4-ctr":
	case "":
		if _, there := c.doc.at(path); there {
			c.found(Fatal, path, `""`, want)
			return
		}
		c.found(Fatal, path, "nothing, by which nothing is encrypted", want)
	case "plaintext":
		c.found(Fatal, path, `"plaintext", by which nothing is encrypted`, want)
	default:
		c.found(Fatal, path, c.quote(method), want)
	}
}

// master checks master-key, and previous-master-key beside it.
func (c *checker) master(path []string) {
	previous := append(slices.Clone(path[:len(path)-1]), previousKey)
	kind := c.kind(path)
	switch kind {
	case typeKMS:
		c.kms(path)
	case typeFile:
		c.file(path)
		if before := c.kind(previous); before != typeKMS || !c.asksBroker(previous) {
			c.found(Doubtful, append(slices.Clone(path), "type"), `"file": this broker is not asked`, `"kms", unless it is meant`)
		}
	case typePlaintext:
		where := append(slices.Clone(path), "type")
		c.found(Fatal, where, "no master key", `type = "kms": TiKV does not encrypt without one`)
	}
	if _, there := c.doc.at(previous); there {
		c.previous(path, kind, previous)
	}
}

// kind is the type of a master key; empty if it is none, which is reported once.
func (c *checker) kind(path []string) string {
	v, there := c.doc.at(path)
	if !there {
		return typePlaintext
	}
	where := append(slices.Clone(path), "type")
	if _, ok := v.(map[string]any); !ok {
		c.once(path, kindOf(v), "a table")
		return ""
	}
	kind, there := c.doc.at(where)
	if !there {
		c.once(where, "nothing", `"kms"`)
		return ""
	}
	switch kind {
	case typePlaintext, typeFile, typeKMS:
		return kind.(string)
	}
	text, ok := kind.(string)
	if !ok {
		c.once(where, kindOf(kind), `"kms"`)
		return ""
	}
	c.once(where, c.quote(text), `"kms", in lower case`)
	return ""
}

// once reports a fatal problem, unless it was.
func (c *checker) once(path []string, found, want string) {
	key := strings.Join(path, ".")
	if !slices.ContainsFunc(c.problems, func(p Problem) bool { return p.Key == key && p.Found == found }) {
		c.found(Fatal, path, found, want)
	}
}

// file checks a master key in a file.
func (c *checker) file(path []string) {
	c.table(path, masterKeyFields()...)
	where := append(slices.Clone(path), "path")
	switch name, ok := c.text(where...); {
	case !ok:
	case name == "":
		c.found(Fatal, where, "nothing", "the path of the file with the key")
	case !strings.HasPrefix(name, "/"):
		c.found(Doubtful, where, c.quote(name)+", from wherever TiKV is started", "an absolute path")
	}
}

// previous checks previous-master-key, which TiKV tries if master-key does not open
// key.dict.
func (c *checker) previous(path []string, kind string, previous []string) {
	switch before := c.kind(previous); before {
	case typeFile:
		c.file(previous)
	case typeKMS:
		c.kms(previous)
		vendor, _ := c.text(append(slices.Clone(previous), "vendor")...)
		if kind == typeKMS && (vendor == "" || vendor == vendorAWS) {
			if c.sameKey(path, previous) {
				c.found(Doubtful, previous, "the same key as master-key", "the key that key.dict has now, or nothing")
				return
			}
			if k := c.handsOn(path, previous); k != nil {
				c.found(Doubtful, previous, "the key of AWS that is the passthrough of "+k.Name+": the broker opens key.dict by it, and the store never takes "+k.Name, "a master-key without that passthrough, or the AWS key's id as its key-id and no previous-master-key")
				return
			}
			c.found(Doubtful, previous, "a key in a KMS before another one", "a TiKV that falls back from KMS to KMS: 6.5.11, 7.1.6, 7.5.4, 8.1.1, 8.4.0 or later in its line; else go through type = \"file\"")
		}
	case typePlaintext:
		c.found(Doubtful, append(slices.Clone(previous), "type"), "no key, which is also the default", "the key that key.dict has now, or no previous-master-key")
	}
}

// handsOn returns the key of the broker at path that has the key at previous as its
// passthrough, or nil.
func (c *checker) handsOn(path, previous []string) *Key {
	id := func(path []string) string {
		v, _ := c.doc.at(append(slices.Clone(path), "key-id"))
		s, _ := v.(string)
		return s
	}
	k, _, _ := c.broker.find(id(path))
	if before, how, _ := c.broker.find(id(previous)); k != nil && before == k && how == byPassthrough && !c.asksBroker(previous) {
		return k
	}
	return nil
}

// sameKey tells whether two master keys are one key of one KMS.
func (c *checker) sameKey(a, b []string) bool {
	for _, name := range []string{"key-id", "endpoint", "region"} {
		x, _ := c.doc.at(append(slices.Clone(a), name))
		y, _ := c.doc.at(append(slices.Clone(b), name))
		if x, ok := x.(string); !ok || x != y {
			return false
		}
	}
	return true
}

// quote shows a value, unless it is a secret that stands in the wrong place.
func (c *checker) quote(s string) string {
	const most = 200
	if whose := c.secretOf(s); whose != "" {
		return whose
	}
	if len(s) > most {
		return fmt.Sprintf("%.*q...", most, s)
	}
	return fmt.Sprintf("%q", s)
}

// secretOf says whose secret is in s, if one is.
func (c *checker) secretOf(s string) string {
	for _, client := range c.broker.Clients {
		if client.Secret.Len() > 0 && strings.Contains(s, string(client.Secret.Bytes())) {
			return "the secret of client " + client.Name
		}
	}
	return ""
}
