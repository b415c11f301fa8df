package config_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/keybroker/keybroker/backends/vault"
	"github.com/keybroker/keybroker/broker/policy"
	"github.com/keybroker/keybroker/internal/config"
)

const examples = "../../deploy/config"

// goodFiles are the configurations under testdata/good and the examples, by path.
func goodFiles(t testing.TB) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, dir := range []string{"testdata/good", examples} {
		paths, err := filepath.Glob(dir + "/*.yaml")
		if err != nil || len(paths) == 0 {
			t.Fatalf("nothing in %s: %v", dir, err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files[path] = string(text)
		}
	}
	return files
}

// A good file is accepted, with the warnings that stand beside it, and by those
// who use it.
func TestGoodFiles(t *testing.T) {
	for path, text := range goodFiles(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			c, err := config.Parse(filepath.Base(path), []byte(text), environment())
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(strings.TrimSuffix(path, ".yaml") + ".txt")
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			if got := c.Warnings.Error(); got != strings.TrimSuffix(string(want), "\n") {
				t.Errorf("%s", difference(got, string(want)))
			}
			checkPlaces(t, filepath.Base(path), text, c.Warnings)
			checkConfig(t, c)
			for _, b := range c.Backends {
				if b.Vault != nil {
					checkVault(t, b)
				}
			}
		})
	}
}

// checkVault holds that the backend takes what was configured.
func checkVault(t *testing.T, b config.Backend) {
	t.Helper()
	v := b.Vault
	k, err := vault.New(vault.Config{
		Address: v.Address, ID: v.ID, Namespace: v.Namespace, Mount: v.Mount, Timeout: v.Timeout,
		Auth: vault.Auth{
			Method: v.Auth.Method, Mount: v.Auth.Mount, TokenFile: v.Auth.TokenFile, RoleIDFile: v.Auth.RoleIDFile,
			SecretIDFile: v.Auth.SecretIDFile, SecretIDWrapped: v.Auth.SecretIDWrapped, Role: v.Auth.Role, JWTFile: v.Auth.JWTFile,
		},
		TLS: vault.TLS{CACertFile: v.TLS.CAFile, ClientCertFile: v.TLS.CertFile, ClientKeyFile: v.TLS.KeyFile, ServerName: v.TLS.ServerName},
	})
	if err != nil {
		t.Errorf("backend %s: %v", b.Name, err)
		return
	}
	if err := k.Close(); err != nil {
		t.Errorf("backend %s: %v", b.Name, err)
	}
}

// The longest names that are taken are taken by Vault's backend, too.
func TestLongNamesInVault(t *testing.T) {
	path := strings.Repeat("a/", 31) // a slash takes three bytes
	path += strings.Repeat("a", config.MaxMountPath-len(path)-2*strings.Count(path, "/"))
	text := compose(t, base, fmt.Sprintf(`
backends:
  local:
    type: vault
    address: https://vault:8200
    id: %s
    namespace: %s
    mount: %s
    auth: {method: kubernetes, role: %s, mount: %s}
keys: {tikv: {recipients: [{backend: local, key: %s}]}}
`, strings.Repeat("i", 64), path, path, strings.Repeat("r", 128), path, strings.Repeat("k", 128)))
	c, err := config.Parse("c.yaml", []byte(text), environment())
	if err != nil {
		t.Fatal(err)
	}
	checkVault(t, c.Backends[0])
}

func TestEverything(t *testing.T) {
	text, err := os.ReadFile("testdata/good/everything.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got, err := config.Parse("everything.yaml", text, environment())
	if err != nil {
		t.Fatal(err)
	}
	got.SHA256 = ""
	want := &config.Config{
		Version: 1, Node: "n1",
		Listen: config.Listen{
			GRPC:    &config.GRPCSocket{Path: "/run/kb.sock", Mode: 0o600, UID: new(uint32(1001)), GID: new(uint32(1001))},
			GRPCTCP: &config.GRPCTCP{Address: "0.0.0.0:7443", CertFile: "/tls.crt", KeyFile: "/tls.key", ClientCAFile: "/ca.crt"},
			AWSKMS: &config.AWSEndpoint{
				Address: "127.0.0.1:7480", Region: "local", Account: "123456789012", CertFile: "/aws.crt", KeyFile: "/aws.key",
				AnswerBy: 4 * time.Second, ClockWindow: 2 * time.Minute,
			},
			Admin: &config.Admin{Address: "[::1]:7490"},
		},
		Backends: []config.Backend{
			{Name: "approle", Type: config.TypeVault, Vault: &config.Vault{
				Address: "https://vault:8200", ID: "main", Namespace: "team/prod", Mount: "kms/transit", Timeout: time.Minute,
				Auth: config.VaultAuth{Method: "approle", Mount: "login/approle", RoleIDFile: "/role-id", SecretIDFile: "/secret-id", SecretIDWrapped: true},
				TLS:  config.VaultTLS{CAFile: "/vault-ca.crt", CertFile: "/client.crt", KeyFile: "/client.key", ServerName: "vault.example.org"},
			}},
			{Name: "aws-role", Type: config.TypeAWSKMS, AWSKMS: &config.AWSKMS{
				Region: "eu-central-1", Profile: "kb", Endpoint: "https://kms.example.com:8443", CAFile: "/kms-ca.crt",
				AssumeRole: &config.AWSAssumeRole{RoleARN: "arn:aws:iam::123456789012:role/app/kb", ExternalID: "x/1:2", SessionName: "kb@n1"},
				Timeout:    100 * time.Millisecond,
			}},
			{Name: "aws-token", Type: config.TypeAWSKMS, AWSKMS: &config.AWSKMS{
				Region: "us-gov-west-1", FIPS: true,
				WebIdentity: &config.AWSWebIdentity{RoleARN: "arn:aws-us-gov:iam::123456789012:role/kb", TokenFile: "/aws-token", SessionName: "n1"},
				Timeout:     3 * time.Second,
			}},
			{Name: "gcp", Type: config.TypeGCPKMS, GCPKMS: &config.GCPKMS{
				Endpoint: "cloudkms.p.googleapis.com:443", CAFile: "/psc-ca.crt", CredentialsFile: "/google.json",
				Impersonate: "kb@p-1.iam.gserviceaccount.com", QuotaProject: "p-1", Timeout: time.Minute,
			}},
			{Name: "gcp-default", Type: config.TypeGCPKMS, GCPKMS: &config.GCPKMS{Timeout: 3 * time.Second}},
			{Name: "kubernetes", Type: config.TypeVault, Vault: &config.Vault{
				Address: "https://[2001:db8::1]:8200", Mount: "transit", Timeout: 3 * time.Second,
				Auth: config.VaultAuth{Method: "kubernetes", Mount: "k8s", Role: "kb", JWTFile: "/jwt"},
			}},
			{Name: "local", Type: config.TypeFile, File: &config.File{Path: "/keyring"}},
			{Name: "token", Type: config.TypeVault, Vault: &config.Vault{
				Address: "https://10.0.0.1", Mount: "transit", Timeout: 3 * time.Second,
				Auth: config.VaultAuth{Method: "token", TokenFile: "/token"},
			}},
		},
		Keys: []config.Key{{
			Name: "cloud",
			Recipients: []config.Recipient{
				{Backend: "aws-role", Key: "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"},
				{Backend: "gcp", Key: "projects/p-1/locations/europe-west3/keyRings/tikv/cryptoKeys/tikv_1"},
			},
			FormerRecipients: []config.Recipient{
				{Backend: "aws-token", Key: "arn:aws-us-gov:kms:us-gov-west-1:123456789012:key/mrk-1234abcd12ab34cd56ef1234567890ab"},
				{Backend: "gcp-default", Key: "projects/example.com:p-1/locations/global/keyRings/r/cryptoKeys/k"},
			},
			MinRecipients: 2, CheckInterval: 5 * time.Minute,
			TTL: time.Hour, RefreshAfter: 45 * time.Minute, MaxStale: 72 * time.Hour, NegativeTTL: 5 * time.Second, MaxAge: 24 * time.Hour, MaxUses: 1 << 20,
		}, {
			Name:             "tikv",
			Recipients:       []config.Recipient{{Backend: "approle", Key: "tikv"}, {Backend: "local", Key: "tikv"}, {Backend: "local", Key: "other"}},
			FormerRecipients: []config.Recipient{{Backend: "token", Key: "TiKV_2"}},
			MinRecipients:    2, HedgeAfter: 150 * time.Millisecond, CheckInterval: 90 * time.Second,
			Context:        map[string]string{"cluster": "prod-1", "": "", "with:colon": "any text\n"},
			FormerContexts: []map[string]string{{"cluster": "prod-0"}, {}},
			TTL:            2 * time.Hour, RefreshAfter: time.Hour, MaxStale: 72 * time.Hour, NegativeTTL: time.Second, Warm: true, HideContext: true, MaxAge: 12 * time.Hour, MaxUses: 1,
			Aliases: []string{"tikv-master"},
			Passthrough: &config.Passthrough{
				Backend: "aws-role", Key: "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
				Contexts: []map[string]string{{"cluster": "old"}, {"": ""}},
			},
		}},
		Clients: []policy.Client{
			{Name: "any", Match: policy.Match{AWS: &policy.AWSMatch{AccessKeyID: "kb2", AnyUser: true}}},
			{Name: "br", Match: policy.Match{AWS: &policy.AWSMatch{AccessKeyID: "KB-br_1", UID: new(uint32(1002))}}},
			{Name: "dns", Match: policy.Match{DNSName: "br"}},
			{
				Name: "group", Match: policy.Match{GID: new(uint32(990))},
				Allow: []policy.Rule{{Keys: []string{"*"}, Operations: []policy.Operation{policy.Any}}}, Admin: []policy.Right{policy.AnyRight},
			},
			{Name: "spiffe", Match: policy.Match{SPIFFEID: "spiffe://example.org/ns/tikv/sa/br"}},
			{
				Name: "user", Match: policy.Match{UID: new(uint32(1001))},
				Allow: []policy.Rule{{Keys: []string{"tikv"}, Operations: policy.Operations()}}, Admin: policy.Rights(),
			},
		},
		MissRates: map[string]float64{"user": 0.5, "group": 50, "spiffe": 50, "dns": 50, "any": 50, "br": 50},
		AccessKeys: []config.AccessKey{
			{ID: "kb2", SecretFile: "/etc/keybroker/any.secret", Client: "any"},
			{ID: "KB-br_1", SecretFile: "/br.secret", Client: "br"},
		},
		Audit: config.Audit{
			Path: "/audit.jsonl", SyncInterval: time.Second, MinFree: 1 << 30, SigningKey: "/state/audit.key", CheckpointInterval: 5 * time.Minute, StrictStart: true,
			Anchor: &config.Anchor{Interval: 30 * time.Minute, KMS: &config.Recipient{Backend: "approle", Key: "audit"}},
			Rotate: config.Rotate{MaxSize: 5 << 20, MaxAge: time.Hour, Keep: 7, KeepAge: 720 * time.Hour, KeepSize: 1 << 30},
			OTLP: &config.OTLP{
				Endpoint: "https://collector:4318/otlp", HeadersFile: "/collector.headers", CAFile: "/etc/keybroker/ca.crt",
				CertFile: "/collector.crt", KeyFile: "/collector.key", Timeout: 3 * time.Second,
			},
		},
		Memory: config.Memory{Size: 64 << 20},
		Cache: config.Cache{
			Capacity: 1000000,
			Persist:  &config.Persist{Path: "/var/lib/keybroker/cache.sealed", TPM: "/dev/tpmrm0", MaxAge: 7 * 24 * time.Hour},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s", difference(dump(t, got), dump(t, want)))
	}
}

// dump is c, one value a line.
func dump(t *testing.T, c *config.Config) string {
	t.Helper()
	text, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestByNumber(t *testing.T) {
	text, err := os.ReadFile("testdata/good/by-number.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse("by-number.yaml", text, environment())
	if err != nil {
		t.Fatal(err)
	}
	if s := c.Listen.GRPC; *s.UID != 0 || *s.GID != 1<<31 || s.Path != "/etc/keybroker/kb.sock" {
		t.Errorf("socket %+v, of %d:%d", s, *s.UID, *s.GID)
	}
	if got := c.Backends[0].File.Path; got != "/etc/keyring" {
		t.Errorf("keyring %s", got)
	}
	if want := (config.Audit{
		Path: "/etc/keybroker/log/audit.jsonl", SyncAlways: true, MinFree: config.DefaultMinFree, SigningKey: "/etc/keybroker/log/.audit.jsonl.key", CheckpointInterval: time.Minute,
		Rotate: config.Rotate{MaxSize: 256 << 20, MaxAge: 24 * time.Hour, Compress: true},
		Anchor: &config.Anchor{
			Interval: time.Hour,
			HTTP:     &config.AnchorHTTP{URL: "https://anchors.example.com:8443/keybroker/n1", TokenFile: "/etc/keybroker/anchor.token", CAFile: "/ca.crt"},
		},
	}); !reflect.DeepEqual(c.Audit, want) {
		t.Errorf("audit %+v", c.Audit)
	}
	for i, want := range []policy.Match{
		{GID: new(uint32(1<<32 - 2))}, {UID: new(uint32(0))}, {AWS: &policy.AWSMatch{AccessKeyID: "kb1", UID: new(uint32(7))}},
	} {
		if c.Clients[i].Match.String() != want.String() {
			t.Errorf("%s: %v, want %v", c.Clients[i].Name, c.Clients[i].Match, want)
		}
	}
}

// The good files have every key of the schema.
func TestGoodFilesCoverTheSchema(t *testing.T) {
	seen := map[string]bool{}
	for path, text := range goodFiles(t) {
		if strings.HasPrefix(path, "testdata") {
			for key := range keysIn(mapping(t, text)) {
				seen[key] = true
			}
		}
	}
	for block, entries := range config.Schema() {
		for _, e := range entries {
			if key := strings.TrimPrefix(block+"."+e.Name, "."); !e.Later && !seen[key] {
				t.Errorf("no good file has %s", key)
			}
		}
	}
}

// keysIn are the keys of a configuration as the schema names them, each with a
// value that it has.
func keysIn(root *yaml.Node) map[string]*yaml.Node {
	keys := map[string]*yaml.Node{}
	var walk func(path string, n *yaml.Node)
	walk = func(path string, n *yaml.Node) {
		switch n.Kind {
		case yaml.SequenceNode:
			for _, item := range n.Content {
				walk(path+"[]", item)
			}
		case yaml.MappingNode:
			for i := 0; i < len(n.Content); i += 2 {
				name := n.Content[i].Value
				if path == "backends" || path == "keys" || path == "clients" {
					name = "NAME"
				}
				key := strings.TrimPrefix(path+"."+name, ".")
				keys[key] = n.Content[i+1]
				walk(key, n.Content[i+1])
			}
		}
	}
	walk("", root)
	return keys
}

// Whatever the value of a key is, one of another kind is refused, at that key.
func TestOtherKinds(t *testing.T) {
	kinds := map[string]string{
		"nothing": "~", "a list": "[x, [y]]", "a mapping": "{x: y}", "a number": "17", "text": "'\\x'", "a boolean": "true", "a date": "2026-01-02",
	}
	// What each kind of value could still be.
	same := map[string][]string{"!!map": {"a mapping"}, "!!seq": {"a list"}, "!!int": {"a number"}, "!!float": {"a number"}, "!!bool": {"a boolean"}, "!!str": {"text"}}
	count := 0
	for _, file := range []string{"everything", "by-number"} {
		text, err := os.ReadFile("testdata/good/" + file + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		tags := map[*yaml.Node]string{} // which marshalling takes away
		var note func(n *yaml.Node)
		note = func(n *yaml.Node) {
			tags[n] = n.ShortTag()
			for _, child := range n.Content {
				note(child)
			}
		}
		var try func(path string, root, at *yaml.Node)
		try = func(path string, root, at *yaml.Node) {
			for kind, value := range kinds {
				if slices.Contains(same[tags[at]], kind) {
					continue
				}
				was := *at
				*at = *mapping(t, "x: "+value).Content[1]
				_, err := config.Parse("c.yaml", []byte(marshal(t, root)), environment())
				*at = was
				var problems config.Problems
				if !errors.As(err, &problems) {
					t.Errorf("%s: %s is accepted", path, kind)
					continue
				}
				if !slices.ContainsFunc(problems, func(p config.Problem) bool { return p.Key == path }) {
					t.Errorf("%s: %s: none of the problems is there:\n%v", path, kind, err)
				}
				count++
			}
			switch at.Kind {
			case yaml.SequenceNode:
				for i, item := range at.Content {
					try(fmt.Sprintf("%s[%d]", path, i), root, item)
				}
			case yaml.MappingNode:
				for i := 0; i < len(at.Content); i += 2 {
					name := at.Content[i].Value
					if name == "" || strings.Contains(name, ":") {
						name = fmt.Sprintf("%q", name)
					}
					try(strings.TrimPrefix(path+"."+name, "."), root, at.Content[i+1])
				}
			}
		}
		root := mapping(t, string(text))
		note(root)
		for i := 0; i < len(root.Content); i += 2 {
			try(root.Content[i].Value, root, root.Content[i+1])
		}
	}
	if count < 500 {
		t.Errorf("only %d values were tried", count)
	}
}

func TestNode(t *testing.T) {
	text := compose(t, base)
	text = strings.Replace(text, "node: n1\n", "", 1)
	env := environment()
	c, err := config.Parse("c.yaml", []byte(text), env)
	if err != nil || c.Node != "host-1" {
		t.Errorf("%v, %v; want the host's name", c, err)
	}
	for name, test := range map[string]struct {
		hostname string
		err      error
		want     string
	}{
		"unknown":   {"", errors.New("no uname"), "c.yaml:1:1: node: found nothing, and the host's name is not known (no uname); want " + wantNode},
		"not fit":   {"(none)", nil, `c.yaml:1:1: node: found nothing, and the host's name is "(none)"; want ` + wantNode},
		"an escape": {"\x1b[31m", nil, `c.yaml:1:1: node: found nothing, and the host's name is "\x1b[31m"; want ` + wantNode},
	} {
		t.Run(name, func(t *testing.T) {
			env.Hostname = func() (string, error) { return test.hostname, test.err }
			_, err := config.Parse("c.yaml", []byte(text), env)
			if err == nil || err.Error() != test.want {
				t.Errorf("%v\nwant: %s", err, test.want)
			}
		})
	}
}

func TestCredentialsDirectory(t *testing.T) {
	env := environment()
	env.CredentialsDirectory = "/run/credentials/keybroker.service"
	text := compose(t, base, `
listen:
  grpc_tcp: {address: "127.0.0.1:7443", cert: "${CREDENTIALS_DIRECTORY}/tls/crt", key: tls.key, client_ca: /ca.crt}
backends: {local: {type: vault, address: https://vault, auth: {method: token, token_file: "${CREDENTIALS_DIRECTORY}/token"}}}
`)
	c, err := config.Parse("c.yaml", []byte(text), env)
	if err != nil {
		t.Fatal(err)
	}
	for want, got := range map[string]string{
		env.CredentialsDirectory + "/tls/crt": c.Listen.GRPCTCP.CertFile,
		"/etc/keybroker/tls.key":              c.Listen.GRPCTCP.KeyFile,
		"/ca.crt":                             c.Listen.GRPCTCP.ClientCAFile,
		env.CredentialsDirectory + "/token":   c.Backends[0].Vault.Auth.TokenFile,
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// Two Configs of one file share nothing that could be changed.
func TestNothingIsShared(t *testing.T) {
	text, err := os.ReadFile("testdata/good/everything.yaml")
	if err != nil {
		t.Fatal(err)
	}
	parse := func() *config.Config {
		c, err := config.Parse("c.yaml", text, environment())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	a, b, want := parse(), parse(), parse()
	*a.Listen.GRPC.UID = 7
	a.Keys[1].Context["cluster"], a.Keys[1].FormerContexts[0]["cluster"] = "changed", "changed"
	a.Keys[1].Recipients[0], a.Keys[1].Aliases[0] = config.Recipient{}, "changed"
	a.Backends[0].Vault.Address, a.Backends[3].GCPKMS.Endpoint = "changed", "changed"
	a.Backends[1].AWSKMS.AssumeRole.RoleARN, a.Backends[2].AWSKMS.WebIdentity.TokenFile = "changed", "changed"
	*a.Clients[3].Match.GID, a.Clients[5].Allow[0].Keys[0], a.Clients[5].Allow[0].Operations[0] = 7, "changed", policy.List
	*a.Clients[1].Match.AWS.UID, a.AccessKeys[0].ID, a.Listen.AWSKMS.Region = 7, "changed", "changed"
	a.Keys[1].Passthrough.Backend, a.Keys[1].Passthrough.Contexts[0]["cluster"] = "changed", "changed"
	a.MissRates["user"] = 7
	if !reflect.DeepEqual(b, want) {
		t.Errorf("%s", difference(dump(t, b), dump(t, want)))
	}
}
