package config_test

import (
	"slices"
	"testing"

	"go.yaml.in/yaml/v4"
)

// base is a complete configuration that fragments are put into.
const base = `
version: 1
node: n1
listen:
  grpc: {socket: /run/kb.sock}
backends:
  local: {type: file, path: /keyring}
keys:
  tikv: {recipients: [{backend: local, key: tikv}]}
clients:
  tikv: {match: {unix: {user: tikv}}, allow: [{keys: [tikv], operations: [generate, unwrap]}]}
audit: {path: /audit.jsonl}
`

// compose is whole with the top-level keys of each fragment in place of its own.
func compose(t testing.TB, whole string, fragments ...string) string {
	t.Helper()
	all := mapping(t, whole)
	for _, fragment := range fragments {
		part := mapping(t, fragment)
		for i := 0; i < len(part.Content); i += 2 {
			at := slices.IndexFunc(all.Content, func(n *yaml.Node) bool { return n.Value == part.Content[i].Value })
			if at < 0 {
				all.Content = append(all.Content, part.Content[i], part.Content[i+1])
				continue
			}
			all.Content[at+1] = part.Content[i+1]
		}
	}
	return marshal(t, all)
}

func mapping(t testing.TB, text string) *yaml.Node {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Load([]byte(text), &doc); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		t.Fatalf("no mapping:\n%s", text)
	}
	return doc.Content[0]
}

func marshal(t testing.TB, n *yaml.Node) string {
	t.Helper()
	text, err := yaml.Dump(n)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
