package config_test

import (
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/envelope"
	"github.com/keybroker/keybroker/broker/policy"
	"github.com/keybroker/keybroker/internal/config"
)

// checkConfig holds what every Config promises to those who use it.
func checkConfig(t *testing.T, c *config.Config) {
	t.Helper()
	if c.Version != 1 || len(c.SHA256) != 64 || !regexp.MustCompile(`^[A-Za-z0-9._-]{1,253}$`).MatchString(c.Node) {
		t.Errorf("version %d, SHA256 %q, node %q", c.Version, c.SHA256, c.Node)
	}
	checkListen(t, c.Listen)
	for _, b := range c.Backends {
		checkBackend(t, b)
	}
	checkKeys(t, c)
	if _, err := policy.New(c.Clients); err != nil {
		t.Errorf("policy: %v", err)
	}
	var clients []string
	for _, client := range c.Clients {
		clients = append(clients, client.Name)
		if !envelope.ValidKeyName(client.Name) || c.MissRates[client.Name] <= 0 {
			t.Errorf("client %q with a miss rate of %g", client.Name, c.MissRates[client.Name])
		}
		for _, rule := range client.Allow {
			for _, name := range rule.Keys {
				if name != policy.AnyKey && !slices.ContainsFunc(c.Keys, func(k config.Key) bool { return k.Name == name }) {
					t.Errorf("client %s may use key %s, which there is not", client.Name, name)
				}
			}
		}
	}
	checkAccessKeys(t, c)
	if got := slices.Sorted(maps.Keys(c.MissRates)); !slices.Equal(got, clients) {
		t.Errorf("clients %q with miss rates for %q", clients, got)
	}
	if a := c.Audit; !clean(a.Path) || a.SyncAlways != (a.SyncInterval == 0) || a.SyncInterval < 0 || a.MinFree < 1<<20 {
		t.Errorf("audit: %+v", a)
	}
	// A slot of the arena has 32 bytes.
	if c.Cache.Capacity < 1 || c.Memory.Size < 32*c.Cache.Capacity {
		t.Errorf("memory of %d bytes for %d keys", c.Memory.Size, c.Cache.Capacity)
	}
	if p := c.Cache.Persist; p != nil && (!clean(p.Path) || (p.KeyFile == "") == (p.TPM == "") || p.MaxAge <= 0) {
		t.Errorf("cache.persist: %+v", p)
	}
}

func checkListen(t *testing.T, l config.Listen) {
	t.Helper()
	if l.GRPC == nil && l.GRPCTCP == nil {
		t.Error("no listener")
	}
	if s := l.GRPC; s != nil {
		if !clean(s.Path) || len(s.Path) > config.MaxSocketPath || s.Mode&^0o777 != 0 || s.Mode&0o600 != 0o600 {
			t.Errorf("socket: %+v", s)
		}
		for _, id := range []*uint32{s.UID, s.GID} {
			if id != nil && (*id == 65534 || *id == 1<<32-1) {
				t.Errorf("the socket is of id %d", *id)
			}
		}
	}
	if l.GRPCTCP != nil {
		checkAddress(t, l.GRPCTCP.Address)
		for _, path := range []string{l.GRPCTCP.CertFile, l.GRPCTCP.KeyFile, l.GRPCTCP.ClientCAFile} {
			if !clean(path) {
				t.Errorf("grpc_tcp: %q is no path", path)
			}
		}
	}
	if e := l.AWSKMS; e != nil {
		checkAddress(t, e.Address)
		host, _, _ := net.SplitHostPort(e.Address)
		if ip := net.ParseIP(host); e.CertFile == "" && host != "localhost" && !ip.IsLoopback() {
			t.Errorf("keys go in the clear at %s", e.Address)
		}
		if (e.CertFile == "") != (e.KeyFile == "") || e.CertFile != "" && (!clean(e.CertFile) || !clean(e.KeyFile)) {
			t.Errorf("aws_kms: certificate %q, key %q", e.CertFile, e.KeyFile)
		}
		arn := "arn:aws:kms:" + e.Region + ":" + e.Account + ":key/tikv"
		if !regexp.MustCompile(`^arn:aws:kms:[a-z0-9-]{1,32}:[0-9]{12}:key/tikv$`).MatchString(arn) {
			t.Errorf("aws_kms: the ARN %s", arn)
		}
		if e.AnswerBy < 100*time.Millisecond || e.AnswerBy > 9*time.Second || e.ClockWindow < time.Second || e.ClockWindow > 15*time.Minute {
			t.Errorf("aws_kms: %+v", e)
		}
	}
	if l.Admin != nil {
		checkAddress(t, l.Admin.Address)
	}
}

// checkAccessKeys holds that each client with an access key has one of its own.
func checkAccessKeys(t *testing.T, c *config.Config) {
	t.Helper()
	var want []string
	for _, client := range c.Clients {
		if aws := client.Match.AWS; aws != nil {
			want = append(want, client.Name+" "+aws.AccessKeyID)
			if aws.UID == nil && (c.Listen.AWSKMS == nil || c.Listen.AWSKMS.CertFile == "") && !aws.AnyUser {
				t.Errorf("client %s: %+v", client.Name, aws)
			}
		}
	}
	var got []string
	seen := map[string]bool{}
	for _, k := range c.AccessKeys {
		got = append(got, k.Client+" "+k.ID)
		if !clean(k.SecretFile) || seen[k.ID] || !regexp.MustCompile(`^[A-Za-z0-9_-]{3,128}$`).MatchString(k.ID) {
			t.Errorf("access key %+v", k)
		}
		seen[k.ID] = true
	}
	if !slices.Equal(got, want) {
		t.Errorf("access keys %q, want %q", got, want)
	}
}

// checkPassthrough holds that what a key sends on is what its backend takes, and
// can open none of keybroker's own.
func checkPassthrough(t *testing.T, c *config.Config, k config.Key) {
	t.Helper()
	p := k.Passthrough
	if p == nil {
		return
	}
	i := slices.IndexFunc(c.Backends, func(b config.Backend) bool { return b.Name == p.Backend })
	if i < 0 || c.Backends[i].AWSKMS == nil {
		t.Errorf("key %s: passthrough to %q", k.Name, p.Backend)
		return
	}
	checkMasterKey(t, c, config.Recipient{Backend: p.Backend, Key: p.Key})
	for _, pairs := range p.Contexts {
		if len(pairs) == 0 {
			t.Errorf("key %s: passthrough of an empty context", k.Name)
		}
		for name := range pairs {
			if strings.HasPrefix(name, "keybroker:") || strings.HasPrefix(name, "aws:") {
				t.Errorf("key %s: passthrough of %q", k.Name, name)
			}
		}
	}
}

func checkAddress(t *testing.T, address string) {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil || host == "" {
		t.Errorf("address %q: %v", address, err)
	}
}

func checkBackend(t *testing.T, b config.Backend) {
	t.Helper()
	switch {
	case !envelope.ValidKeyName(b.Name):
		t.Errorf("backend %q", b.Name)
	case settings(b) != 1:
		t.Errorf("backend %s: settings of %d types", b.Name, settings(b))
	case b.Type == config.TypeFile && b.File != nil:
		if !clean(b.File.Path) {
			t.Errorf("backend %s: %q is no path", b.Name, b.File.Path)
		}
	case b.Type == config.TypeVault && b.Vault != nil:
		v := b.Vault
		u, err := url.Parse(v.Address)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Scheme+"://"+u.Host != v.Address {
			t.Errorf("backend %s: address %q: %v", b.Name, v.Address, err)
		}
		if v.Mount == "" || v.Timeout <= 0 || strings.HasPrefix(v.Mount, "/") || strings.HasSuffix(v.Mount, "/") || (v.TLS.CertFile == "") != (v.TLS.KeyFile == "") {
			t.Errorf("backend %s: %+v", b.Name, v)
		}
		files := map[string][]string{
			config.MethodToken: {v.Auth.TokenFile}, config.MethodAppRole: {v.Auth.RoleIDFile, v.Auth.SecretIDFile}, config.MethodKubernetes: {v.Auth.JWTFile},
		}[v.Auth.Method]
		if len(files) == 0 || !slices.ContainsFunc(files, clean) || (v.Auth.Mount == "") != (v.Auth.Method == config.MethodToken) ||
			(v.Auth.Role == "") == (v.Auth.Method == config.MethodKubernetes) {
			t.Errorf("backend %s: %+v", b.Name, v.Auth)
		}
	case b.Type == config.TypeAWSKMS && b.AWSKMS != nil:
		checkAWSKMS(t, b)
	case b.Type == config.TypeGCPKMS && b.GCPKMS != nil:
		checkGCPKMS(t, b)
	default:
		t.Errorf("backend %s: %+v", b.Name, b)
	}
}

// settings counts the types that b has settings of.
func settings(b config.Backend) int {
	n := 0
	for _, there := range []bool{b.File != nil, b.Vault != nil, b.AWSKMS != nil, b.GCPKMS != nil} {
		if there {
			n++
		}
	}
	return n
}

func checkKeys(t *testing.T, c *config.Config) {
	t.Helper()
	names := map[string]bool{}
	for _, k := range c.Keys {
		for _, name := range append([]string{k.Name}, k.Aliases...) {
			if !envelope.ValidKeyName(name) || names[name] {
				t.Errorf("key %s: %q names no key, or two", k.Name, name)
			}
			names[name] = true
		}
		if n := len(k.Recipients); n < 1 || n > envelope.MaxRecipients || k.MinRecipients < 1 || k.MinRecipients > n {
			t.Errorf("key %s: %d of %d recipients", k.Name, k.MinRecipients, n)
		}
		seen := map[config.Recipient]bool{}
		for _, r := range slices.Concat(k.Recipients, k.FormerRecipients) {
			if seen[r] || r.Key == "" || !slices.ContainsFunc(c.Backends, func(b config.Backend) bool { return b.Name == r.Backend }) {
				t.Errorf("key %s: recipient %+v", k.Name, r)
			}
			seen[r] = true
			checkMasterKey(t, c, r)
		}
		checkPassthrough(t, c, k)
		checkContext(t, k.Name, k.Context)
		for _, former := range k.FormerContexts {
			checkContext(t, k.Name, former)
		}
		if k.HedgeAfter < 0 || k.CheckInterval <= 0 || k.TTL <= 0 || k.MaxStale != 0 && k.MaxStale < k.TTL || k.RefreshAfter < 0 || k.RefreshAfter >= k.TTL || k.NegativeTTL < 0 || k.MaxAge <= 0 || k.MaxUses < 1 {
			t.Errorf("key %s: %+v", k.Name, k)
		}
	}
	if len(c.Backends) == 0 || len(c.Keys) == 0 {
		t.Errorf("%d backends and %d keys", len(c.Backends), len(c.Keys))
	}
}

// clean tells whether path is absolute and has one spelling.
func clean(path string) bool { return filepath.IsAbs(path) && filepath.Clean(path) == path }
