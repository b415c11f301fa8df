package config

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// MaxSize is the size of the largest configuration in bytes.
const MaxSize = 1 << 20

// version is the only version of the format.
const version = "1"

// Parse reads a configuration. name is the file's name in problems. It opens no
// file: the permissions of those that the configuration names are not checked.
//
// The error is Problems: everything that is wrong, each with its line.
func Parse(name string, data []byte, env Environment) (*Config, error) {
	w := newWalker(name, env)
	c := w.parse(data)
	if len(w.problems) > 0 {
		return nil, w.problems.sorted()
	}
	return c, nil
}

func newWalker(name string, env Environment) *walker {
	return &walker{file: name, lines: 1, env: env, schema: schema(), told: map[*yaml.Node]bool{}}
}

// parse returns a Config that is of use only if there are no problems.
func (w *walker) parse(data []byte) *Config {
	root, ok := w.document(data)
	if !ok {
		return nil
	}
	v := value{node: root}
	w.structure(v, 0)
	if !w.readable(v) {
		return nil
	}
	c := &Config{Version: 1}
	b := w.block(v, "")
	if _, ok := b.fields["node"]; !ok {
		c.Node = w.hostname(v)
	}
	b.pattern("node", &c.Node, nodeForm, nodeWant)
	if v, ok := b.fields["listen"]; ok {
		c.Listen = w.listen(v)
	}
	backends := map[string]Backend{} // by name, whatever else is wrong with it
	if v, ok := b.fields["backends"]; ok {
		c.Backends = w.backends(v)
		for _, m := range w.peek(v) {
			backends[m.name.Value] = Backend{}
		}
		for _, b := range c.Backends {
			backends[b.Name] = b
		}
	}
	if v, ok := b.fields["keys"]; ok {
		c.Keys = w.keys(v, backends)
	}
	if v, ok := b.fields["clients"]; ok {
		w.clients(v, c)
	}
	if len(c.Clients) == 0 {
		w.warn(v, "no client", "clients: as it is, every caller is refused")
	}
	if len(c.Clients) > 0 && c.Listen.AWSKMS != nil && len(c.AccessKeys) == 0 {
		at, _ := w.member(b.fields["listen"], "aws_kms")
		w.warn(at, "no client with an access key", "a client with match: {aws: …}: as it is, every request here is refused")
	}
	c.Audit = defaultAudit()
	if v, ok := b.fields["audit"]; ok {
		c.Audit = w.audit(v, backends)
	}
	c.Cache = Cache{Capacity: DefaultCacheCapacity, Handover: true}
	if v, ok := b.fields["cache"]; ok {
		b := w.block(v, "cache")
		n := uint64(DefaultCacheCapacity)
		b.number("capacity", &n, 1, 1<<20)
		handover := "auto"
		b.oneOf("handover", &handover)
		c.Cache = Cache{Capacity: int(n), Handover: handover == "auto"}
		if v, ok := b.fields["persist"]; ok {
			c.Cache.Persist = w.persist(v)
		}
	}
	c.Memory = Memory{RequireLocked: true, Size: DefaultMemorySize}
	if v, ok := b.fields["memory"]; ok {
		c.Memory = w.memory(v)
	}
	w.fits(b, c)
	sum := sha256.Sum256(data)
	c.SHA256 = hex.EncodeToString(sum[:])
	c.Warnings = w.warnings.sorted()
	return c
}

// readable holds that the file is of the version that this program reads. If it
// is not, nothing else can be said of it.
func (w *walker) readable(root value) bool {
	for _, m := range w.peek(root) {
		if m.name.Value != "version" || w.told[m.node] {
			continue
		}
		if m.node.Kind == yaml.ScalarNode && m.node.ShortTag() == "!!int" && m.node.Value == version {
			return true
		}
		w.problem(m, describe(m.node), "1, the only version that this keybroker reads")
		return false
	}
	return true
}

const nodeWant = "a name of letters, digits, dots, underscores and hyphens, with a letter or digit at both ends"

func (w *walker) hostname(root value) string {
	name, err := w.env.Hostname()
	at := value{node: root.node, path: "node"}
	switch {
	case err != nil:
		w.problem(at, fmt.Sprintf("nothing, and the host's name is not known (%v)", err), nodeWant)
	case !nodeForm.MatchString(name):
		w.problem(at, fmt.Sprintf("nothing, and the host's name is %s", quote(name)), nodeWant)
	}
	return name
}

// minMemory is the least memory.size: as much for what is cached as for keys in
// use.
const minMemory = 2 * memoryBeside

func (w *walker) memory(v value) Memory {
	b := w.block(v, "memory")
	locked := "require"
	b.oneOf("locked", &locked)
	m := Memory{RequireLocked: locked == "require", Size: DefaultMemorySize}
	b.size("size", &m.Size, minMemory, 1<<30)
	return m
}

// An intermediate key takes memoryEach bytes, half of it in reserve, and keys in
// use memoryBeside.
const (
	memoryEach   = 64
	memoryBeside = 64 << 10
)

// fits holds that the locked memory has room for what is cached.
func (w *walker) fits(root block, c *Config) {
	need := int64(c.Cache.Capacity)*memoryEach + memoryBeside
	if int64(c.Memory.Size) >= need {
		return
	}
	size, sized := w.member(root.fields["memory"], "size")
	capacity, _ := w.member(root.fields["cache"], "capacity")
	for _, v := range []value{root.fields["memory"], root.fields["cache"], size, capacity} {
		if w.told[v.node] {
			return // a default stands where the file has another value
		}
	}
	at := size
	if !sized {
		at = capacity
	}
	w.problem(at, fmt.Sprintf("memory.size %s for cache.capacity %d", binary(int64(c.Memory.Size)), c.Cache.Capacity),
		fmt.Sprintf("memory.size of at least %s, or a smaller cache.capacity", binary((need+1023)&^1023)))
}

// document returns the root of the only YAML document in data.
func (w *walker) document(data []byte) (*yaml.Node, bool) {
	if !w.clean(data) {
		return nil, false
	}
	loader, err := yaml.NewLoader(bytes.NewReader(data), yaml.WithUniqueKeys(false))
	if err != nil { // unreachable: the options are constant
		w.syntax(err)
		return nil, false
	}
	var doc yaml.Node
	switch err := loader.Load(&doc); {
	case errors.Is(err, io.EOF):
		w.place(1, 1, "an empty file", "a configuration that begins with version: 1")
		return nil, false
	case err != nil:
		w.syntax(err)
		return nil, false
	case doc.Kind != yaml.DocumentNode || len(doc.Content) != 1: // unreachable: so is every document
		w.place(1, 1, "no YAML document", "a configuration that begins with version: 1")
		return nil, false
	}
	var second yaml.Node
	switch err := loader.Load(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		w.syntax(err)
		return nil, false
	default:
		w.place(w.line(second.Line), max(1, second.Column), "a second YAML document", "one document a file")
		return nil, false
	}
	return doc.Content[0], true
}

// clean reports what no configuration may hold, before YAML is parsed: its
// parser gives no line for some of it, and would accept the rest.
func (w *walker) clean(data []byte) bool {
	if len(data) > MaxSize {
		w.place(1, 1, "more than 1 MiB", "a configuration of at most 1 MiB")
		return false
	}
	before := len(w.problems)
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		if !utf8.ValidString(line) {
			w.place(number, 1, "bytes that are not UTF-8", "UTF-8")
			return false
		}
		if strings.HasPrefix(line, "%") {
			w.place(number, 1, "a YAML directive", "the file without it")
		}
		indent := len(line) - len(strings.TrimLeft(line, " \t"))
		if tab := strings.IndexByte(line[:indent], '\t'); tab >= 0 && strings.TrimSpace(line) != "" {
			w.place(number, tab+1, "a tab", "spaces to indent with")
		}
		column := 0
		text, _ := strings.CutSuffix(line, "\n")
		text, _ = strings.CutSuffix(text, "\r")
		for _, r := range text {
			column++
			if !allowed(r) && (r != '\ufeff' || number != 1 || column != 1) {
				w.place(number, column, fmt.Sprintf("the character %U", r), "text without it")
				break
			}
		}
	}
	w.lines = max(1, number)
	return len(w.problems) == before
}

// allowed tells whether r may stand in a line. A lone carriage return and the
// Unicode line ends would make lines that editors count in other ways.
func allowed(r rune) bool {
	switch {
	case r == '\t':
		return true
	case r < 0x20, 0x7f <= r && r < 0xa0, r == 0x2028, r == 0x2029, r == '\ufeff', r == 0xfffe, r == 0xffff:
		return false
	default:
		return true
	}
}

// syntax reports an error of the YAML parser.
func (w *walker) syntax(err error) {
	const want = "YAML: look here, and just before, for a colon, quote, bracket or indentation that is wrong"
	var at *yaml.LoadError
	if !errors.As(err, &at) { // unreachable: the parser places all its errors
		w.place(1, 1, "text that is not YAML", want)
		return
	}
	line, column := w.line(at.Mark.Line), max(1, at.Mark.Column)
	if strings.HasPrefix(at.Message, "unknown anchor ") { // and its name, which may be a secret that begins with *
		w.place(line, column, "a YAML alias of an anchor that is not there", "the value itself; text that begins with * must be in quotes")
		return
	}
	found := at.Message
	if at.ContextMsg != "" {
		found = fmt.Sprintf("%s that begins in line %d, %s", at.ContextMsg, w.line(at.ContextMark.Line), found)
	}
	w.place(line, column, "text that is not YAML ("+found+")", want)
}

// place reports a problem of no key.
func (w *walker) place(line, column int, found, want string) {
	w.problems = append(w.problems, Problem{File: w.file, Line: line, Column: column, Found: found, Want: want})
}
