package config_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/internal/config"
)

const (
	wantMode    = `four octal digits in quotes that let the owner read and write, such as "0660"`
	wantSize    = `a size from 128KiB to 1GiB, in KiB, MiB or GiB`
	wantAddress = `host:port, such as 127.0.0.1:7490 (0.0.0.0 or [::] for every interface)`
	wantRate    = `a number above 0 and up to 1000000, in decimal digits: how many a second`
	wantNode    = `a name of letters, digits, dots, underscores and hyphens, with a letter or digit at both ends`
	wantTTL     = `a time from 1s to 366d, in d, h, m, s and ms, such as 30s or 1h30m`
	wantStale   = `a time from 0s to 366d, in d, h, m, s and ms, such as 30s or 1h30m`
	wantSync    = `a time from 1ms to 1m, in d, h, m, s and ms, such as 30s or 1h30m`
	wantHedge   = `a time from 1ms to 1m, in d, h, m, s and ms, such as 30s or 1h30m`
	wantRegion  = `the region of all its master keys, such as eu-central-1`
	wantID      = `the external id in the role's trust policy: 2 to 1224 letters, digits and _+=,.@:/-`
	wantServer  = `host:port, such as cloudkms.p.googleapis.com:443`
	wantURL     = `a URL such as https://vault.example.com:8200`
)

// values are the keys that are read from one scalar: the fragment that a value
// is put into, what is read, and its path.
func values() map[string]struct {
	fragment, key string
	read          func(*config.Config) any
} {
	type value = struct {
		fragment, key string
		read          func(*config.Config) any
	}
	return map[string]value{
		"node":    {"node: %s", "node", func(c *config.Config) any { return c.Node }},
		"mode":    {"listen: {grpc: {socket: /run/kb.sock, mode: %s}}", "listen.grpc.mode", func(c *config.Config) any { return c.Listen.GRPC.Mode }},
		"socket":  {"listen: {grpc: {socket: %s}}", "listen.grpc.socket", func(c *config.Config) any { return c.Listen.GRPC.Path }},
		"address": {"listen: {grpc: {socket: /run/kb.sock}, admin: {address: %s}}", "listen.admin.address", func(c *config.Config) any { return c.Listen.Admin.Address }},
		"memory":  {"memory: {size: %s}", "memory.size", func(c *config.Config) any { return c.Memory.Size - 64*c.Cache.Capacity }},
		"both": {"listen: {grpc_tcp: {address: 127.0.0.1:0, cert: /c, key: /k, client_ca: /ca}, admin: {address: %s}}", "listen.admin.address",
			func(c *config.Config) any { return c.Listen.Admin.Address }},
		"size":     {"memory: {size: %s}\ncache: {capacity: 1}", "memory.size", func(c *config.Config) any { return c.Memory.Size }},
		"min free": {"audit: {path: /a, min_free: %s}", "audit.min_free", func(c *config.Config) any { return c.Audit.MinFree }},
		"interval": {"audit: {path: /a, sync_interval: %s}", "audit.sync_interval", func(c *config.Config) any { return c.Audit.SyncInterval }},
		"path":     {"audit: {path: %s}", "audit.path", func(c *config.Config) any { return c.Audit.Path }},
		"ttl": {"keys: {tikv: {recipients: [{backend: local, key: tikv}], cache: {ttl: %s}}}\nclients: {}", "keys.tikv.cache.ttl",
			func(c *config.Config) any { return c.Keys[0].TTL }},
		"stale": {"keys: {tikv: {recipients: [{backend: local, key: tikv}], cache: {max_stale: %s}}}\nclients: {}", "keys.tikv.cache.max_stale",
			func(c *config.Config) any { return c.Keys[0].MaxStale }},
		"uses": {"keys: {tikv: {recipients: [{backend: local, key: tikv}], intermediate: {max_uses: %s}}}", "keys.tikv.intermediate.max_uses",
			func(c *config.Config) any { return c.Keys[0].MaxUses }},
		"rate": {"clients: {tikv: {match: {unix: {user: tikv}}, miss_rate: %s}}", "clients.tikv.miss_rate",
			func(c *config.Config) any { return c.MissRates["tikv"] }},
		"vault": {"backends: {local: {type: vault, address: %s, auth: {method: token, token_file: /t}}}", "backends.local.address",
			func(c *config.Config) any { return c.Backends[0].Vault.Address }},
		"hedge": {"keys: {tikv: {recipients: [{backend: local, key: tikv}], hedge_after: %s}}", "keys.tikv.hedge_after",
			func(c *config.Config) any { return c.Keys[0].HedgeAfter }},
		"region": {"backends: {aws: {type: aws-kms, region: %s}, local: {type: file, path: /keyring}}", "backends.aws.region",
			func(c *config.Config) any { return c.Backends[0].AWSKMS.Region }},
		"endpoint": {"backends: {aws: {type: aws-kms, region: eu-west-1, endpoint: %s}, local: {type: file, path: /keyring}}", "backends.aws.endpoint",
			func(c *config.Config) any { return c.Backends[0].AWSKMS.Endpoint }},
		"external": {"backends: {aws: {type: aws-kms, region: eu-west-1, assume_role: {role_arn: 'arn:aws:iam::123456789012:role/kb', external_id: %s}}, local: {type: file, path: /keyring}}", "backends.aws.assume_role.external_id",
			func(c *config.Config) any { return c.Backends[0].AWSKMS.AssumeRole.ExternalID }},
		"server": {"backends: {gcp: {type: gcp-kms, endpoint: %s}, local: {type: file, path: /keyring}}", "backends.gcp.endpoint",
			func(c *config.Config) any { return c.Backends[0].GCPKMS.Endpoint }},
		"spiffe": {"clients: {tikv: {match: {tls: {spiffe_id: %s}}}}", "clients.tikv.match.tls.spiffe_id",
			func(c *config.Config) any { return c.Clients[0].Match.SPIFFEID }},
		"dns": {"clients: {tikv: {match: {tls: {dns: %s}}}}", "clients.tikv.match.tls.dns",
			func(c *config.Config) any { return c.Clients[0].Match.DNSName }},
	}
}

func TestValuesThatAreRight(t *testing.T) {
	long := strings.Repeat("x", 100)
	for _, test := range []struct {
		value, yaml string
		want        any
	}{
		{"node", "a", "a"},
		{"node", "Tikv_01.example.org", "Tikv_01.example.org"},
		{"node", `"123"`, "123"},
		{"node", strings.Repeat("a", 253), strings.Repeat("a", 253)},
		{"mode", `"0600"`, "-rw-------"},
		{"mode", `'0660'`, "-rw-rw----"},
		{"mode", `"0777"`, "-rwxrwxrwx"},
		{"socket", "/run/" + long + "/2", "/run/" + long + "/2"},
		{"socket", "kb.sock", "/etc/keybroker/kb.sock"},
		{"socket", "../x/./kb.sock", "/etc/x/kb.sock"},
		{"address", "127.0.0.1:0", "127.0.0.1:0"},
		{"address", "localhost:7490", "localhost:7490"},
		{"address", `"[::1]:65535"`, "[::1]:65535"},
		{"address", `"[fe80::1%eth0]:7490"`, "[fe80::1%eth0]:7490"},
		{"address", `a-1.example.org:1`, "a-1.example.org:1"},
		{"both", "127.0.0.1:0", "127.0.0.1:0"}, // two free ports
		{"both", "127.0.0.1:1", "127.0.0.1:1"},
		{"memory", "320KiB", 64 << 10}, // what 4096 keys need, and no more
		{"size", "128KiB", 128 << 10},
		{"size", "1000KiB", 1000 << 10},
		{"size", "1GiB", 1 << 30},
		{"size", "1048576KiB", 1 << 30},
		{"interval", "1ms", "1ms"},
		{"interval", "1m", "1m0s"},
		{"interval", "60s", "1m0s"},
		{"interval", "1s500ms", "1.5s"},
		{"interval", "0h0m1s", "1s"},
		{"interval", "05s", "5s"},
		{"path", "a", "/etc/keybroker/a"},
		{"path", "/a//b/../c/", "/a/c"},
		{"path", `"/var/log/with a space"`, "/var/log/with a space"},
		{"ttl", "1s", "1s"},
		{"ttl", "1h30m", "1h30m0s"},
		{"ttl", "366d", "8784h0m0s"},
		{"ttl", "7d12h", "180h0m0s"},
		{"stale", "0s", "0s"},
		{"stale", "0d", "0s"},
		{"stale", "1h", "1h0m0s"},
		{"uses", "1", 1},
		{"uses", "4294967295", 4294967295},
		{"rate", "0.000000001", 1e-9},
		{"rate", "1000000", 1e6},
		{"rate", "12.5", 12.5},
		{"vault", "https://vault", "https://vault"},
		{"vault", "HTTPS://vault:8200/", "https://vault:8200"},
		{"vault", `"https://[::1]:8200"`, "https://[::1]:8200"},
		{"vault", "https://10.0.0.1:65535", "https://10.0.0.1:65535"},
		{"hedge", "1ms", "1ms"},
		{"hedge", "1m", "1m0s"},
		{"region", "us-gov-west-1", "us-gov-west-1"},
		{"region", "eusc-de-east-1", "eusc-de-east-1"},
		{"region", "ap-southeast-12", "ap-southeast-12"},
		{"endpoint", "HTTPS://kms.example.com:443/", "https://kms.example.com:443"},
		{"endpoint", `"http://[::1]:4566"`, "http://[::1]:4566"},
		{"endpoint", "http://127.9.9.9", "http://127.9.9.9"},
		{"external", "ab", "ab"},
		{"external", strings.Repeat("x", 1224), strings.Repeat("x", 1224)},
		{"server", "cloudkms.p.googleapis.com:443", "cloudkms.p.googleapis.com:443"},
		{"server", `"[2001:db8::1]:1"`, "[2001:db8::1]:1"},
		{"spiffe", `"spiffe://example.org/a"`, "spiffe://example.org/a"},
		{"spiffe", `"spiffe://e_x.org/ns/A-1/.hidden"`, "spiffe://e_x.org/ns/A-1/.hidden"},
		{"dns", "br", "br"},
		{"dns", "Br-1.Example.org", "Br-1.Example.org"},
	} {
		t.Run(test.value+" "+test.yaml, func(t *testing.T) {
			v := values()[test.value]
			c, err := config.Parse("c.yaml", []byte(compose(t, base, fmt.Sprintf(v.fragment, test.yaml))), environment())
			if err != nil {
				t.Fatal(err)
			}
			if got := v.read(c); fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

func TestValuesThatAreWrong(t *testing.T) {
	for _, test := range []struct {
		value, yaml, found, want string
	}{
		{"hedge", "0ms", `"0ms"`, wantHedge},
		{"hedge", "1m1ms", `"1m1ms"`, wantHedge},
		{"region", "eu-central-1b", `"eu-central-1b"`, wantRegion},
		{"region", "EU-Central-1", `"EU-Central-1"`, wantRegion},
		{"region", "eu", `"eu"`, wantRegion},
		{"endpoint", "http://10.0.0.1:4566", `"http://10.0.0.1:4566", over which keys would go in the clear`, "https, or a loopback address"},
		{"external", strings.Repeat("x", 1225), "text of another form", wantID},
		{"server", "10.0.0.256:443", `"10.0.0.256:443"`, wantServer},
		{"server", "kms.example.com:0443", `"kms.example.com:0443"`, wantServer},
		{"server", `"kms.example.com:"`, `"kms.example.com:"`, wantServer},
		{"node", "-a", `"-a"`, wantNode},
		{"node", "a.", `"a."`, wantNode},
		{"node", "a/b", `"a/b"`, wantNode},
		{"node", "tikv-ü", `"tikv-ü"`, wantNode},
		{"node", strings.Repeat("a", 254), `"` + strings.Repeat("a", 80) + `"… (254 bytes)`, wantNode},
		{"node", strings.Repeat("ü", 60), `"` + strings.Repeat("ü", 40) + `"… (120 bytes)`, wantNode},
		{"node", "123", "the number 123", wantNode + ", in quotes"},
		{"node", "1e3", "the number 1e3", wantNode + ", in quotes"},
		{"node", "true", "the boolean true", wantNode + ", in quotes"},
		{"node", "2026-01-02", "2026-01-02, which YAML takes for a timestamp", wantNode + ", in quotes"},
		{"node", "<<", "<<, which YAML takes for a merge", wantNode + ", in quotes"},
		{"mode", "0660", "the number 0660", wantMode},
		{"mode", "432", "the number 432", wantMode},
		{"mode", `"0o660"`, `"0o660"`, wantMode},
		{"mode", `"660"`, `"660"`, wantMode},
		{"mode", `"00660"`, `"00660"`, wantMode},
		{"mode", `"4660"`, `"4660"`, wantMode},
		{"mode", `"0680"`, `"0680"`, wantMode},
		{"mode", `"0460"`, `"0460"`, wantMode},
		{"mode", `"0060"`, `"0060"`, wantMode},
		{"mode", "rw-rw----", `"rw-rw----"`, wantMode},
		{"mode", `""`, `""`, wantMode},
		{"socket", "/run/" + strings.Repeat("x", 103), "a path of 108 bytes", "at most 107 bytes, as a unix socket's path"},
		{"socket", strings.Repeat("x", 93), "a path of 108 bytes", "at most 107 bytes, as a unix socket's path"},
		{"socket", "~/kb.sock", `"~/kb.sock"`, "a path without ~, which only a shell knows"},
		{"socket", "$XDG_RUNTIME_DIR/kb.sock", `"$XDG_RUNTIME_DIR/kb.sock"`, "a path without $: nothing is expanded here"},
		{"address", `":7490"`, `":7490"`, wantAddress},
		{"address", `"*:7490"`, `"*:7490"`, wantAddress},
		{"address", "127.0.0.1", `"127.0.0.1"`, wantAddress},
		{"address", `"127.0.0.1:"`, `"127.0.0.1:"`, wantAddress},
		{"address", "127.0.0.1:65536", `"127.0.0.1:65536"`, wantAddress},
		{"address", "127.0.0.1:07490", `"127.0.0.1:07490"`, wantAddress},
		{"address", "127.0.0.1:http", `"127.0.0.1:http"`, wantAddress},
		{"address", "127.0.0.1:-1", `"127.0.0.1:-1"`, wantAddress},
		{"address", "127.0.0.256:7490", `"127.0.0.256:7490"`, wantAddress},
		{"address", "127.1:7490", `"127.1:7490"`, wantAddress},
		{"address", "0177.0.0.1:7490", `"0177.0.0.1:7490"`, wantAddress},
		{"address", `"::1:7490"`, `"::1:7490"`, wantAddress},
		{"address", `"[::1%]:7490"`, `"[::1%]:7490"`, wantAddress},
		{"address", `"[::g]:7490"`, `"[::g]:7490"`, wantAddress},
		{"address", "a_b:7490", `"a_b:7490"`, wantAddress},
		{"address", "-a:7490", `"-a:7490"`, wantAddress},
		{"address", "a.:7490", `"a.:7490"`, wantAddress},
		{"address", "http://127.0.0.1:7490", `"http://127.0.0.1:7490"`, wantAddress},
		{"address", "7490", "the number 7490", wantAddress + ", in quotes"},
		{"size", "1048576", "the number 1048576", wantSize},
		{"size", "1MB", `"1MB"`, wantSize},
		{"size", "1M", `"1M"`, wantSize},
		{"size", "1mib", `"1mib"`, wantSize},
		{"size", "1 MiB", `"1 MiB"`, wantSize},
		{"size", "1.5MiB", `"1.5MiB"`, wantSize},
		{"size", "0MiB", `"0MiB"`, wantSize},
		{"size", "01MiB", `"01MiB"`, wantSize},
		{"size", "-1MiB", `"-1MiB"`, wantSize},
		{"size", "127KiB", `"127KiB"`, wantSize},
		{"size", "2GiB", `"2GiB"`, wantSize},
		{"size", "9999999999GiB", `"9999999999GiB"`, wantSize},
		{"size", "18014398509481984KiB", `"18014398509481984KiB"`, wantSize},
		{"interval", "0ms", `"0ms"`, wantSync},
		{"interval", "61s", `"61s"`, wantSync},
		{"interval", "100", "the number 100", wantSync},
		{"interval", "1s 500ms", `"1s 500ms"`, wantSync},
		{"interval", "500ms1s", `"500ms1s"`, wantSync},
		{"interval", "1s1s", `"1s1s"`, wantSync},
		{"interval", "-1s", `"-1s"`, wantSync},
		{"interval", "+1s", `"+1s"`, wantSync},
		{"interval", "1e1s", `"1e1s"`, wantSync},
		{"interval", "1S", `"1S"`, wantSync},
		{"interval", "100000us", `"100000us"`, wantSync},
		{"path", "~keybroker/a", `"~keybroker/a"`, "a path without ~, which only a shell knows"},
		{"path", `"${CREDENTIALS_DIRECTORY}/a"`, `"${CREDENTIALS_DIRECTORY}/a"`, "a path without $: nothing is expanded here"},
		{"path", "/" + strings.Repeat("x", 4096), "4097 bytes of text", "a path of at most 4096 bytes"},
		{"path", "7", "the number 7", "a path, in quotes"},
		{"ttl", "999ms", `"999ms"`, wantTTL},
		{"ttl", "366d1ms", `"366d1ms"`, wantTTL},
		{"ttl", "999999d999999h999999m", `"999999d999999h999999m"`, wantTTL},
		{"ttl", "1000000d", `"1000000d"`, wantTTL},
		{"stale", "0", "the number 0", wantStale},
		{"stale", "never", `"never"`, wantStale},
		{"stale", "59m59s", `"59m59s", which is less than ttl (1h)`, "at least ttl, since it counts from the same moment, or 0s to serve nothing past ttl"},
		{"rate", "0", "the number 0", wantRate},
		{"rate", "0.0000000001", "the number 0.0000000001", wantRate},
		{"rate", "1000000.5", "the number 1000000.5", wantRate},
		{"rate", "1e3", "the number 1e3", wantRate},
		{"rate", `"5"`, `"5"`, wantRate},
		{"vault", "https://vault:8200//", `"https://vault:8200//"`, wantURL + ", without a path"},
		{"vault", "https:vault:8200", `"https:vault:8200"`, wantURL + ", whose host is a DNS name or an IP address"},
		{"vault", "//vault:8200", `"//vault:8200"`, wantURL},
		{"vault", `"https://[::1:8200"`, "text that is no plain URL", wantURL + ", without user, query and fragment"},
		{"vault", "https://vault:0", `"https://vault:0"`, wantURL + ", whose port is 1 to 65535"},
		{"vault", "https://vault:08200", `"https://vault:08200"`, wantURL + ", whose port is 1 to 65535"},
		{"spiffe", `"spiffe://example.org/` + strings.Repeat("x", 2048) + `"`, `"spiffe://example.org/` + strings.Repeat("x", 59) + `"… (2069 bytes)`, "the SPIFFE ID of a workload, such as spiffe://example.org/tikv"},
		{"spiffe", `"spiffe://example.org//br"`, `"spiffe://example.org//br"`, "the SPIFFE ID of a workload, such as spiffe://example.org/tikv"},
		{"spiffe", `"spiffe://example.org/br?x"`, `"spiffe://example.org/br?x"`, "the SPIFFE ID of a workload, such as spiffe://example.org/tikv"},
		{"dns", strings.Repeat("a.", 126) + "aa", `"` + strings.Repeat("a.", 40) + `"… (254 bytes)`, "a DNS name of at most 253 characters"},
		{"dns", strings.Repeat("a", 64), `"` + strings.Repeat("a", 64) + `"`, "the DNS name in the client's certificate, whole and without wildcard"},
		{"dns", "a_b.example.org", `"a_b.example.org"`, "the DNS name in the client's certificate, whole and without wildcard"},
		{"dns", "a..b", `"a..b"`, "the DNS name in the client's certificate, whole and without wildcard"},
	} {
		t.Run(test.value+" "+test.yaml[:min(len(test.yaml), 60)], func(t *testing.T) {
			v := values()[test.value]
			text := compose(t, base, fmt.Sprintf(v.fragment, test.yaml))
			_, err := config.Parse("c.yaml", []byte(text), environment())
			if err == nil {
				t.Fatal("it is accepted")
			}
			checkProblems(t, "c.yaml", text, err)
			_, told, _ := strings.Cut(err.Error(), ": ")
			if want := v.key + ": found " + test.found + "; want " + test.want; told != want {
				t.Errorf("%s\nwant: %s", told, want)
			}
		})
	}
}
