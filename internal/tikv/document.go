package tikv

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// MaxConfig is the size in bytes above which a file is not taken for a store's
// configuration.
const MaxConfig = 1 << 20

// document is a TOML file: its values, and where each stands.
type document struct {
	values map[string]any
	places map[string]place // by joined path
}

type place struct{ line, column int }

// readDocument reads a TOML file, or tells what it is not.
func readDocument(b []byte) (document, *Problem) {
	d := document{places: map[string]place{}}
	if len(b) > MaxConfig {
		return d, &Problem{Severity: Fatal, Found: fmt.Sprintf("a file of %d bytes", len(b)), Want: fmt.Sprintf("a configuration of at most %d", MaxConfig)}
	}
	if err := toml.Unmarshal(b, &d.values); err != nil {
		p := &Problem{Severity: Fatal, Found: "what is not TOML", Want: "a TOML file"}
		var at *toml.DecodeError
		if errors.As(err, &at) {
			// The library's words show at most one character of the file.
			p.Line, p.Column = at.Position()
			p.Found += " (" + strings.TrimPrefix(at.Error(), "toml: ") + ")"
		}
		return d, p
	}
	// The library gives places through this parser alone. It decides nothing: the
	// values are those from above.
	var p unstable.Parser
	p.Reset(b)
	var table []string
	for p.NextExpression() {
		switch e := p.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = d.mark(&p, nil, e.Key())
		case unstable.KeyValue:
			d.markValue(&p, table, e)
		}
	}
	return d, nil
}

// markValue notes where the keys of a value stand, and of those in it.
func (d document) markValue(p *unstable.Parser, in []string, n *unstable.Node) {
	path := d.mark(p, in, n.Key())
	if len(path) == maxDepth {
		return
	}
	if v := n.Value(); v.Kind == unstable.InlineTable {
		for it := v.Children(); it.Next(); {
			d.markValue(p, path, it.Node())
		}
	}
}

// maxDepth is deeper than what is checked. What is deeper has no place of its own:
// a key of many parts would else take their number squared in memory.
const maxDepth = 8

// mark notes where each part of a dotted key stands, unless it stood before.
func (d document) mark(p *unstable.Parser, in []string, keys unstable.Iterator) []string {
	path := slices.Clone(in)
	for keys.Next() && len(path) < maxDepth {
		k := keys.Node()
		path = append(path, string(k.Data))
		if _, there := d.places[joined(path)]; !there {
			at := p.Shape(k.Raw).Start
			d.places[joined(path)] = place{at.Line, at.Column}
		}
	}
	return path
}

// joined is the path as a key of a map. A part with a NUL in it misplaces a line,
// no more.
func joined(path []string) string { return strings.Join(path, "\x00") }

// at returns the value at path.
func (d document) at(path []string) (any, bool) {
	var v any = d.values
	for _, name := range path {
		table, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = table[name]; !ok {
			return nil, false
		}
	}
	return v, true
}

// kindOf says what a value is, without the value.
func kindOf(v any) string {
	switch v.(type) {
	case string:
		return "text"
	case bool:
		return "true or false"
	case int64, float64:
		return "a number"
	case map[string]any:
		return "a table"
	case []any:
		return "a list"
	default:
		return "a date or time"
	}
}
