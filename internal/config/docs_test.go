package config_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/keybroker/keybroker/internal/config"
)

const document = "../../docs/configuration.md"

func readDocument(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// documented is a row of the document's tables of keys.
type documented struct{ kind, fallback, meaning string }

// documentedKeys are the keys that the document explains, by path.
func documentedKeys(t *testing.T) map[string]documented {
	t.Helper()
	keys := map[string]documented{}
	inTable := false
	for line := range strings.Lines(readDocument(t)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		switch {
		case len(cells) < 3:
			inTable = false
		case slices.Equal(cells, []string{"", "key", "type", "default", "meaning", ""}):
			inTable = true
		case inTable && strings.HasPrefix(cells[1], "`"):
			if len(cells) != 6 {
				t.Errorf("a row with %d cells: %s", len(cells)-2, line)
				continue
			}
			key := strings.Trim(cells[1], "`")
			if _, ok := keys[key]; ok {
				t.Errorf("%s is documented twice", key)
			}
			keys[key] = documented{cells[2], cells[3], cells[4]}
		}
	}
	return keys
}

// The document has every key of the schema and no other, and says of each
// whether it is required, for which types, and what its choices are.
func TestDocumentedKeys(t *testing.T) {
	rows := documentedKeys(t)
	for block, entries := range config.Schema() {
		for _, e := range entries {
			key := strings.TrimPrefix(block+"."+e.Name, ".")
			row, ok := rows[key]
			if !ok {
				t.Errorf("%s is not documented", key)
				continue
			}
			delete(rows, key)
			if e.Later != (row.kind == "later") {
				t.Errorf("%s: type %q, but later is %v", key, row.kind, e.Later)
			}
			if e.Later {
				continue
			}
			if required := strings.HasPrefix(row.fallback, "required"); required != e.Required {
				t.Errorf("%s: default %q, but required is %v", key, row.fallback, e.Required)
			}
			if len(e.In) == 1 && e.Required && row.fallback != "required with `"+e.When+": "+e.In[0]+"`" {
				t.Errorf("%s: default %q, but it is required with %s: %s", key, row.fallback, e.When, e.In[0])
			}
			if len(e.Choices) > 0 && row.kind != "one of `"+strings.Join(e.Choices, "`, `")+"`" {
				t.Errorf("%s: type %q, but one of %q", key, row.kind, e.Choices)
			}
			if row.kind == "" || row.fallback == "" {
				t.Errorf("%s: type %q, default %q", key, row.kind, row.fallback)
			}
		}
	}
	for key := range rows {
		t.Errorf("%s is documented, and there is no such key", key)
	}
}

// plain is a configuration with every block whose keys have defaults, and none of
// these keys.
const plain = `
version: 1
node: n1
listen:
  grpc: {socket: /run/kb.sock}
  aws_kms: {address: "127.0.0.1:7480"}
backends:
  file: {type: file, path: /keyring}
  vault: {type: vault, address: "https://vault:8200", auth: {method: approle, role_id_file: /r, secret_id_file: /s}}
  kubernetes: {type: vault, address: "https://vault:8200", auth: {method: kubernetes, role: kb}}
  role: {type: aws-kms, region: eu-central-1, assume_role: {role_arn: "arn:aws:iam::123456789012:role/kb"}}
  token: {type: aws-kms, region: eu-central-1, web_identity: {role_arn: "arn:aws:iam::123456789012:role/kb", token_file: /t}}
  google: {type: gcp-kms}
keys: {tikv: {recipients: [{backend: file, key: tikv}]}}
clients: {tikv: {match: {unix: {user: tikv}}}, br: {match: {aws: {access_key_id: kb1, secret_key_file: /s, user: tikv}}}}
audit: {path: /audit.jsonl, anchor: {http: {url: "https://anchors.example.com"}}, export: {otlp: {endpoint: "https://collector:4318"}}}
cache: {persist: {path: /cache.sealed, tpm: /dev/tpmrm0}}
`

// A default that the document writes as a value changes nothing when it is
// written into a file.
func TestDocumentedDefaults(t *testing.T) {
	without, err := config.Parse("c.yaml", []byte(compose(t, plain)), environment())
	if err != nil {
		t.Fatal(err)
	}
	without.SHA256 = ""
	tried := 0
	for key, row := range documentedKeys(t) {
		value := regexp.MustCompile("^`([^`]+)`").FindStringSubmatch(row.fallback)
		if value == nil || row.kind == "later" || strings.HasPrefix(row.fallback, "`cluster_id`") {
			continue
		}
		tried++
		root := mapping(t, plain)
		set(t, root, key, value[1])
		text := marshal(t, root)
		with, err := config.Parse("c.yaml", []byte(text), environment())
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		with.SHA256 = ""
		if !reflect.DeepEqual(with, without) {
			t.Errorf("%s is not %s without it: %s", key, value[1], difference(dump(t, with), dump(t, without)))
		}
	}
	if tried < 15 {
		t.Errorf("only %d defaults were tried", tried)
	}
}

// set puts a value at a path of the schema.
func set(t *testing.T, root *yaml.Node, path, value string) {
	t.Helper()
	at := root
	parts := strings.Split(path, ".")
	for i, part := range parts {
		if part == "NAME" {
			switch {
			case parts[0] != "backends":
				part = "tikv"
			case strings.HasSuffix(path, "jwt_file"):
				part = "kubernetes"
			case strings.Contains(path, "assume_role"), strings.HasSuffix(path, "fips"):
				part = "role"
			case strings.Contains(path, "web_identity"):
				part = "token"
			default:
				part = "vault"
			}
		}
		j := slices.IndexFunc(at.Content, func(n *yaml.Node) bool { return n.Value == part })
		if j < 0 {
			name := &yaml.Node{Kind: yaml.ScalarNode, Value: part}
			at.Content = append(at.Content, name, &yaml.Node{Kind: yaml.MappingNode})
			j = len(at.Content) - 2
		}
		if i == len(parts)-1 {
			at.Content[j+1] = mapping(t, "x: "+value).Content[1]
			return
		}
		at = at.Content[j+1]
	}
}

// What the document says of defaults that are no values.
func TestDefaultsThatDependOnOthers(t *testing.T) {
	c, err := config.Parse("c.yaml", []byte(compose(t, plain)), environment())
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen.GRPCTCP != nil || c.Listen.Admin != nil || c.Listen.GRPC.UID != nil || c.Listen.GRPC.GID != nil {
		t.Errorf("listen: %+v", c.Listen)
	}
	for _, b := range c.Backends {
		name := map[string]string{"kubernetes": config.MethodKubernetes, "vault": config.MethodAppRole}[b.Name]
		if v := b.Vault; v != nil && (v.Auth.Mount != name || v.ID != "" || v.Namespace != "" || v.TLS != config.VaultTLS{}) {
			t.Errorf("%s: %+v", b.Name, v)
		}
		if a := b.AWSKMS; a != nil && (a.Profile != "" || a.Endpoint != "" || a.CAFile != "" || a.Timeout != config.DefaultKMSTimeout || (a.AssumeRole == nil) == (a.WebIdentity == nil)) {
			t.Errorf("%s: %+v", b.Name, a)
		}
		if g := b.GCPKMS; g != nil && *g != (config.GCPKMS{Timeout: config.DefaultKMSTimeout}) {
			t.Errorf("%s: %+v", b.Name, g)
		}
	}
	for _, test := range []struct {
		name, key string
		is, want  func(k config.Key) any
	}{
		{"all recipients", "{recipients: [{backend: file, key: a}, {backend: file, key: b}, {backend: file, key: c}]}",
			func(k config.Key) any { return k.MinRecipients }, func(config.Key) any { return 3 }},
		{"a long ttl", "{recipients: [{backend: file, key: a}], cache: {ttl: 73h}}",
			func(k config.Key) any { return k.MaxStale }, func(k config.Key) any { return k.TTL }},
		{"nothing stale", "{recipients: [{backend: file, key: a}], cache: {ttl: 73h, max_stale: 0s}}",
			func(k config.Key) any { return int(k.MaxStale) }, func(config.Key) any { return 0 }},
		{"nothing", "{recipients: [{backend: file, key: a}]}",
			func(k config.Key) any {
				return int(k.HedgeAfter) + len(k.Context) + len(k.FormerContexts) + len(k.Aliases) + len(k.FormerRecipients)
			}, func(config.Key) any { return 0 }},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := config.Parse("c.yaml", []byte(compose(t, plain, "keys: {tikv: "+test.key+"}")), environment())
			if err != nil {
				t.Fatal(err)
			}
			if is, want := test.is(c.Keys[0]), test.want(c.Keys[0]); is != want {
				t.Errorf("%v, want %v", is, want)
			}
		})
	}
}

// Every YAML block of the document is a configuration or a part of one; and one
// that is meant to be wrong has the problems that are shown after it.
func TestDocumentedYAML(t *testing.T) {
	blocks := regexp.MustCompile("(?ms)^```([a-z ]*)\n(.*?)^```$").FindAllStringSubmatch(readDocument(t), -1)
	env := environment()
	env.CredentialsDirectory = "/run/credentials/keybroker.service"
	counts := map[string]int{}
	for i, block := range blocks {
		kind, text := block[1], block[2]
		counts[kind]++
		switch kind {
		case "yaml":
			name := "config.yaml"
			if !strings.Contains(text, "version: 1\n") {
				text = compose(t, string(mustRead(t, examples+"/minimal.yaml")), text)
			}
			c, err := config.Parse(name, []byte(text), env)
			if err != nil {
				t.Errorf("%v in\n%s", err, text)
				continue
			}
			if len(c.Warnings) > 0 {
				t.Errorf("%v in\n%s", c.Warnings, text)
			}
			checkConfig(t, c)
		case "yaml bad":
			if i+1 >= len(blocks) || blocks[i+1][1] != "text" {
				t.Errorf("the problems do not follow:\n%s", text)
				continue
			}
			_, err := config.Parse("config.yaml", []byte(text), env)
			var problems config.Problems
			if !errors.As(err, &problems) {
				t.Errorf("this is accepted:\n%s", text)
				continue
			}
			if got := err.Error() + "\n"; got != blocks[i+1][2] {
				t.Errorf("%s", difference(got, blocks[i+1][2]))
			}
		case "text":
			if i == 0 || blocks[i-1][1] != "yaml bad" {
				t.Errorf("the output of nothing:\n%s", text)
			}
		default:
			t.Errorf("a block of kind %q:\n%s", kind, text)
		}
	}
	if counts["yaml"] < 5 || counts["yaml bad"] < 1 {
		t.Errorf("blocks: %v", counts)
	}
}

// The configurations that stand in other files are accepted.
func TestEmbeddedConfigurations(t *testing.T) {
	readme := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$").FindAllSubmatch(mustRead(t, "../../README.md"), -1)
	if len(readme) == 0 {
		t.Error("README.md shows no configuration")
	}
	for _, block := range readme {
		accepted(t, "README.md", block[1], 0)
	}
	documents, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(documents) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	for _, path := range documents {
		if path == document {
			continue // TestDocumentedYAML
		}
		for _, block := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$").FindAllSubmatch(mustRead(t, path), -1) {
			accepted(t, path, []byte(compose(t, string(mustRead(t, examples+"/minimal.yaml")), string(block[1]))), 0)
		}
	}
	const manifest = "../../deploy/kubernetes/tikvgroup.yaml"
	found := false
	for in := yaml.NewDecoder(bytes.NewReader(mustRead(t, manifest))); ; {
		var doc struct {
			Kind string            `yaml:"kind"`
			Data map[string]string `yaml:"data"`
		}
		if err := in.Decode(&doc); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if doc.Kind == "ConfigMap" {
			found = true
			accepted(t, manifest, []byte(doc.Data["config.yaml"]), 1) // Prometheus is on another node
		}
	}
	if !found {
		t.Errorf("%s has no ConfigMap", manifest)
	}
}

func accepted(t *testing.T, name string, text []byte, warnings int) {
	t.Helper()
	c, err := config.Parse(name, text, environment())
	if err != nil {
		t.Error(err)
		return
	}
	if len(c.Warnings) != warnings {
		t.Errorf("%s: %v", name, c.Warnings)
	}
	checkConfig(t, c)
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// full.yaml shows every key, if only in a comment.
func TestFullExampleHasEveryKey(t *testing.T) {
	text := string(mustRead(t, examples+"/full.yaml"))
	now := map[string]bool{} // names that some block has in this version
	for _, entries := range config.Schema() {
		for _, e := range entries {
			now[e.Name] = now[e.Name] || !e.Later
		}
	}
	for block, entries := range config.Schema() {
		for _, e := range entries {
			if e.Later && now[e.Name] {
				continue
			}
			shown := regexp.MustCompile(`(?m)(^ *(# )?|[{ ])` + e.Name + `:`).MatchString(text)
			if shown == e.Later {
				t.Errorf("%s.%s: shown %v, later %v", block, e.Name, shown, e.Later)
			}
		}
	}
}
