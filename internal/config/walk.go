package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// maxDepth is more than any configuration needs. Below it nothing is looked at.
const maxDepth = 16

// value is a node of the file and the path that leads to it.
type value struct {
	node *yaml.Node
	path string
	// name is the key before the value; nil for the root and in lists.
	name *yaml.Node
}

// walker reads a tree of nodes and collects what is wrong with it.
type walker struct {
	file     string
	lines    int // of the file, at least 1
	env      Environment
	schema   map[string][]entry
	problems Problems
	warnings Problems
	files    []neededFile
	// told are nodes that a problem was reported for already; whoever reads them
	// gets nothing and adds nothing.
	told map[*yaml.Node]bool
}

// problem reports v's node.
func (w *walker) problem(v value, found, want string) {
	w.told[v.node] = true
	w.problems = append(w.problems, w.at(v.node, v.path, found, want))
}

// misnamed reports the key before v.
func (w *walker) misnamed(v value, found, want string) {
	w.problems = append(w.problems, w.at(v.name, v.path, found, want))
}

// missing reports that v's block lacks key.
func (w *walker) missing(v value, key string) {
	n := v.name
	if n == nil {
		n = v.node
	}
	w.problems = append(w.problems, w.at(n, join(v.path, key), "nothing", "a value: the key is required"))
}

func (w *walker) warn(v value, found, want string) {
	w.warnings = append(w.warnings, w.at(v.node, v.path, found, want))
}

func (w *walker) at(n *yaml.Node, path, found, want string) Problem {
	return Problem{File: w.file, Line: w.line(n.Line), Column: max(1, n.Column), Key: path, Found: found, Want: want}
}

// line is a line of the file: a value that is left out at its end is, for the YAML
// parser, in the line after the last one.
func (w *walker) line(n int) int { return min(max(1, n), w.lines) }

// structure reports everything in the tree that YAML allows and a configuration
// does not need: it would be one more way to misread the file.
func (w *walker) structure(v value, depth int) {
	n := v.node
	if depth > maxDepth {
		w.problem(v, "a value nested too deep", fmt.Sprintf("at most %d levels", maxDepth))
		return
	}
	if n.Kind == yaml.AliasNode {
		w.problem(v, "a YAML alias", "the value itself, written out")
		return
	}
	// What else is wrong with such a value is told, too, unless the tag says what
	// it is.
	if n.Anchor != "" {
		w.problems = append(w.problems, w.at(n, v.path, "a YAML anchor", "the value without it; nothing may refer to another place"))
	}
	if n.Style&yaml.TaggedStyle != 0 {
		w.problems = append(w.problems, w.at(n, v.path, "a YAML tag", "the value without it"))
		w.told[n] = n.Kind == yaml.ScalarNode
	}
	switch n.Kind {
	case yaml.ScalarNode:
		if looksSecret(n.Value) {
			w.problem(v, "what looks like a secret or a key itself", "it in a file of mode 0600, and in the configuration only that file's path")
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			w.structure(value{node: item, path: fmt.Sprintf("%s[%d]", v.path, i)}, depth+1)
		}
	case yaml.MappingNode:
		lines := make(map[string]int, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			name, item := n.Content[i], n.Content[i+1]
			key := value{node: name, path: v.path}
			switch {
			case name.Kind == yaml.AliasNode || name.Style&yaml.TaggedStyle != 0:
				w.problem(key, "a YAML alias or tag as a key", "a plain key")
				continue
			case name.Kind == yaml.ScalarNode && name.ShortTag() == "!!merge":
				w.problem(key, "a YAML merge key (<<)", "the keys themselves, written out")
				continue
			case name.Kind != yaml.ScalarNode || name.ShortTag() != "!!str":
				w.problem(key, "a key that is "+describe(name), "a name; a number or a word like true must be in quotes")
				continue
			case looksSecret(name.Value):
				w.problem(key, "what looks like a secret or a key itself", "the name of a key")
				continue
			}
			if name.Anchor != "" {
				w.problems = append(w.problems, w.at(name, v.path, "a YAML anchor on a key", "the key without it; nothing may refer to another place"))
			}
			if first, ok := lines[name.Value]; ok {
				key.path = join(v.path, name.Value)
				w.problem(key, fmt.Sprintf("the key a second time; the first is in line %d", first), "each key once")
				continue
			}
			lines[name.Value] = name.Line
			w.structure(value{node: item, path: join(v.path, name.Value), name: name}, depth+1)
		}
	}
}

// isMapping reports v if it is not a mapping.
func (w *walker) isMapping(v value) bool {
	if v.node.Kind == yaml.MappingNode && !w.told[v.node] {
		return true
	}
	w.otherKind(v, "a mapping (key: value)")
	return false
}

// mismatch reports that v is not what it should be, if nothing has been reported
// for it.
func (w *walker) mismatch(v value, want string) {
	if !w.told[v.node] {
		w.problem(v, describe(v.node), want)
	}
}

// otherKind is mismatch for a v that is not even of the right kind. Text is not
// repeated: nothing says what was meant to be there.
func (w *walker) otherKind(v value, want string) {
	if v.isText() && !w.told[v.node] {
		w.problem(v, "text", want)
		return
	}
	w.mismatch(v, want)
}

// members returns the values of a mapping, in the order of the file.
func (w *walker) members(v value) []value {
	if !w.isMapping(v) {
		return nil
	}
	return w.peek(v)
}

// peek is members for a v that may be anything.
func (w *walker) peek(v value) []value {
	if v.node == nil || v.node.Kind != yaml.MappingNode {
		return nil
	}
	var members []value
	for i := 0; i+1 < len(v.node.Content); i += 2 {
		name, item := v.node.Content[i], v.node.Content[i+1]
		if !w.told[name] {
			members = append(members, value{node: item, path: join(v.path, name.Value), name: name})
		}
	}
	return members
}

// member returns one value of a v that may be anything.
func (w *walker) member(v value, name string) (value, bool) {
	for _, m := range w.peek(v) {
		if m.name.Value == name {
			return m, true
		}
	}
	return value{}, false
}

// items returns the values of a list.
func (w *walker) items(v value) []value {
	if v.node.Kind != yaml.SequenceNode || w.told[v.node] {
		w.otherKind(v, "a list ([a, b])")
		return nil
	}
	items := make([]value, len(v.node.Content))
	for i, n := range v.node.Content {
		items[i] = value{node: n, path: fmt.Sprintf("%s[%d]", v.path, i)}
	}
	return items
}

// block is a mapping whose keys the schema knows.
type block struct {
	value
	w       *walker
	entries []entry
	fields  map[string]value
}

// block reads the keys of v, which is the schema's block of that name, and
// reports those that are unknown, missing or not for this block's type.
func (w *walker) block(v value, name string) block {
	entries := w.schema[name]
	b := block{value: v, w: w, entries: entries, fields: map[string]value{}}
	if !w.isMapping(v) {
		return b
	}
	var strangers []value
	for _, m := range w.peek(v) {
		i := slices.IndexFunc(entries, func(e entry) bool { return e.name == m.name.Value })
		switch {
		case i < 0:
			strangers = append(strangers, m)
		case entries[i].later:
			w.misnamed(m, "a key that this version of keybroker does not have yet", "the file without it")
		default:
			b.fields[m.name.Value] = m
		}
	}
	for _, m := range strangers {
		w.unknown(m, b.known())
	}
	for _, e := range entries {
		m, ok := b.fields[e.name]
		if e.when != "" {
			sibling, known := b.choice(e.when)
			switch {
			case !known:
				continue // it is absent or wrong, which is reported where it is read
			case !slices.Contains(e.in, sibling):
				if ok {
					w.misnamed(m, fmt.Sprintf("a key for %s: %s, but this is %s: %s", e.when, strings.Join(e.in, " or "), e.when, sibling), "the block without it")
				}
				delete(b.fields, e.name)
				continue
			}
		}
		if !ok && e.required && !w.merges(v) {
			w.missing(v, e.name)
		}
	}
	return b
}

// known are the names that the block may have, those of other types left out.
func (b block) known() []string {
	var names []string
	for _, e := range b.entries {
		if e.later {
			continue
		}
		if e.when != "" {
			if sibling, ok := b.choice(e.when); ok && !slices.Contains(e.in, sibling) {
				continue
			}
		}
		names = append(names, e.name)
	}
	return names
}

// merges tells whether v has a merge key, which was told, and so perhaps what
// seems to be missing.
func (w *walker) merges(v value) bool {
	for i := 0; i < len(v.node.Content); i += 2 {
		if n := v.node.Content[i]; n.Kind == yaml.ScalarNode && n.ShortTag() == "!!merge" {
			return true
		}
	}
	return false
}

// unknown reports a key that is none of names.
func (w *walker) unknown(m value, names []string) {
	name := m.name.Value
	similar := suggest(name, names)
	if similar == "" && secretName.MatchString(name) && !strings.HasSuffix(name, "_file") {
		want := "one of " + strings.Join(names, ", ") + ", and the secret in a file of its own"
		if file := name + "_file"; slices.Contains(names, file) {
			want = fmt.Sprintf("a file that holds it, of mode 0600, and its path under %s", file)
		}
		w.misnamed(m, "a secret in the configuration itself", want)
		return
	}
	w.misnamed(m, "an unknown key", "one of "+strings.Join(names, ", ")+similar)
}

// secretName fits the names under which people write secrets.
var secretName = regexp.MustCompile(`(?i)(token|secret|role_id|passw|passphrase|credential|private_key|api_key|access_key|^pin$)`)

// choice returns the value of a key that has one of a few, if it is one of them.
func (b block) choice(name string) (string, bool) {
	v, ok := b.fields[name]
	if !ok || !v.isText() || !slices.Contains(b.choices(name), v.node.Value) {
		return "", false
	}
	return v.node.Value, true
}

func (b block) choices(name string) []string {
	i := slices.IndexFunc(b.entries, func(e entry) bool { return e.name == name })
	return b.entries[i].choices
}

// join appends a key to a path. Names that could be taken for something else are
// quoted.
func join(path, key string) string {
	if !plain(key) {
		key = quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func plain(key string) bool {
	for i := range len(key) {
		switch c := key[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-', c == '.':
		default:
			return false
		}
	}
	return key != "" && len(key) <= maxQuoted
}

const maxQuoted = 80

// quote returns s in quotes, on one line and not too long.
func quote(s string) string {
	if len(s) > maxQuoted {
		return fmt.Sprintf("%q… (%d bytes)", strings.ToValidUTF8(s[:maxQuoted], ""), len(s))
	}
	return fmt.Sprintf("%q", s)
}

// describe says what n is.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		if len(n.Content) == 0 {
			return "an empty mapping"
		}
		return "a mapping"
	case yaml.SequenceNode:
		if len(n.Content) == 0 {
			return "an empty list"
		}
		return "a list"
	case yaml.AliasNode:
		return "a YAML alias"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!str":
		return quote(n.Value)
	case "!!int", "!!float":
		return "the number " + clip(n.Value)
	case "!!bool":
		return "the boolean " + clip(n.Value)
	default:
		return clip(n.Value) + ", which YAML takes for a " + strings.TrimPrefix(n.ShortTag(), "!!")
	}
}

func clip(s string) string { return s[:min(len(s), maxQuoted)] }

func (v value) isText() bool {
	return v.node.Kind == yaml.ScalarNode && v.node.ShortTag() == "!!str"
}
