package config_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends/awskms"
	"github.com/keybroker/keybroker/backends/gcpkms"
	"github.com/keybroker/keybroker/internal/config"
)

// checkAWSKMS holds that the backend takes what was configured.
func checkAWSKMS(t *testing.T, b config.Backend) {
	t.Helper()
	a := b.AWSKMS
	if a.Region == "" || a.Timeout <= 0 || a.CAFile != "" && !clean(a.CAFile) {
		t.Errorf("backend %s: %+v", b.Name, a)
	}
	cfg := awskms.Config{Region: a.Region, Profile: a.Profile, Endpoint: a.Endpoint, FIPS: a.FIPS, CAFile: a.CAFile, Timeout: a.Timeout}
	if r := a.AssumeRole; r != nil {
		cfg.AssumeRole = &awskms.AssumeRole{RoleARN: r.RoleARN, ExternalID: r.ExternalID, SessionName: r.SessionName}
		if r.SessionName == "" {
			t.Errorf("backend %s: %+v", b.Name, r)
		}
	}
	if i := a.WebIdentity; i != nil {
		cfg.WebIdentity = &awskms.WebIdentity{RoleARN: i.RoleARN, TokenFile: i.TokenFile, SessionName: i.SessionName}
		if !clean(i.TokenFile) || i.SessionName == "" {
			t.Errorf("backend %s: %+v", b.Name, i)
		}
	}
	k, err := awskms.New(cfg)
	if err != nil {
		t.Errorf("backend %s: %v", b.Name, err)
		return
	}
	if err := k.Close(); err != nil {
		t.Errorf("backend %s: %v", b.Name, err)
	}
}

// checkGCPKMS holds that the backend takes what was configured.
func checkGCPKMS(t *testing.T, b config.Backend) {
	t.Helper()
	g := b.GCPKMS
	if g.Timeout <= 0 || g.CAFile != "" && !clean(g.CAFile) || g.CredentialsFile != "" && !clean(g.CredentialsFile) {
		t.Errorf("backend %s: %+v", b.Name, g)
	}
	k, err := gcpkms.New(gcpkms.Config{
		Endpoint: g.Endpoint, CAFile: g.CAFile, CredentialsFile: g.CredentialsFile,
		Impersonate: g.Impersonate, QuotaProject: g.QuotaProject, Timeout: g.Timeout,
	})
	if err != nil {
		t.Errorf("backend %s: %v", b.Name, err)
		return
	}
	if err := k.Close(); err != nil {
		t.Errorf("backend %s: %v", b.Name, err)
	}
}

// checkMasterKey holds that a recipient's backend takes its key.
func checkMasterKey(t *testing.T, c *config.Config, r config.Recipient) {
	t.Helper()
	i := slices.IndexFunc(c.Backends, func(b config.Backend) bool { return b.Name == r.Backend })
	if i < 0 {
		return // which is told
	}
	switch b := c.Backends[i]; b.Type {
	case config.TypeAWSKMS:
		if err := awskms.ValidKey(r.Key); err != nil || !strings.Contains(r.Key, ":"+b.AWSKMS.Region+":") {
			t.Errorf("recipient %+v of region %s: %v", r, b.AWSKMS.Region, err)
		}
	case config.TypeGCPKMS:
		if err := gcpkms.ValidKey(r.Key); err != nil {
			t.Errorf("recipient %+v: %v", r, err)
		}
	}
}

// near are s, and what it becomes if a byte is left out or another one.
func near(s string) []string {
	all := []string{s, s + s, strings.ToUpper(s), " " + s, s + "\u00e9"}
	for i := range s {
		all = append(all, s[:i]+s[i+1:])
		for _, c := range []string{":", "/", "_", ".", "A", "0"} {
			all = append(all, s[:i]+c+s[i+1:])
		}
	}
	return all
}

// cloud is a configuration of one backend and the key that it has for it.
const cloud = `
version: 1
node: n1
listen: {grpc: {socket: /run/kb.sock}}
backends: {cloud: {%s}, local: {type: file, path: /keyring}}
keys: {tikv: {recipients: [{backend: %s, key: %q}]}}
audit: {path: /audit.jsonl}
`

// The loader and the backends take the same keys.
func TestMasterKeysAreTheBackends(t *testing.T) {
	const arn, resource = "arn:aws:kms:eu-west-1:123456789012:key/mrk-1a", "projects/example.com:p-1/locations/global/keyRings/R_1/cryptoKeys/K-1"
	for _, test := range []struct {
		name, backend string
		keys          []string
		valid         func(key string) bool
	}{
		{"aws-kms", "type: aws-kms, region: eu-west-1", append(near(arn),
			"arn:aws-cn:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
			"arn:aws-"+strings.Repeat("x", 28)+":kms:eu-west-1:123456789012:key/a", "arn:aws-"+strings.Repeat("x", 29)+":kms:eu-west-1:123456789012:key/a",
			arn+strings.Repeat("a", 122), arn+strings.Repeat("a", 123), "alias/tikv", "1234abcd-12ab-34cd-56ef-1234567890ab",
		), func(key string) bool { return awskms.ValidKey(key) == nil && strings.Contains(key, ":eu-west-1:") }},
		{"gcp-kms", "type: gcp-kms", append(near(resource),
			"projects/0/locations/l/keyRings/r/cryptoKeys/k",
			strings.Replace(resource, "K-1", strings.Repeat("k", 63), 1), strings.Replace(resource, "K-1", strings.Repeat("k", 64), 1),
			strings.Replace(resource, "R_1", strings.Repeat("r", 63), 1), strings.Replace(resource, "R_1", strings.Repeat("r", 64), 1),
			strings.Replace(resource, "p-1", strings.Repeat("p", 116), 1), strings.Replace(resource, "p-1", strings.Repeat("p", 117), 1),
			resource+"/cryptoKeyVersions/1", "//cloudkms.googleapis.com/"+resource,
		), func(key string) bool { return gcpkms.ValidKey(key) == nil }},
	} {
		t.Run(test.name, func(t *testing.T) {
			right := 0
			for _, key := range test.keys {
				_, err := config.Parse("c.yaml", fmt.Appendf(nil, cloud, test.backend, "cloud", key), environment())
				want := test.valid(key)
				if (err == nil) != want {
					t.Errorf("%q: %v, and valid for the backend: %v", key, err, want)
				}
				if want {
					right++
				}
			}
			if right < 20 || right > len(test.keys)-100 {
				t.Errorf("%d of %d keys are right", right, len(test.keys))
			}
		})
	}
}

// What the loader takes for a setting, New takes too.
func TestCloudSettingsAreTheBackends(t *testing.T) {
	const role = "arn:aws:iam::123456789012:role/app/kb"
	for _, test := range []struct {
		name, backend string
		values        []string
	}{
		{"region", `type: aws-kms, region: %q`, near("us-gov-west-1")},
		{"endpoint", `type: aws-kms, region: eu-west-1, endpoint: %q`, slices.Concat(near("https://kms.eu:443"), near("http://127.0.0.1:1"), near("http://[::1]:1"), near("http://localhost"))},
		{"role", `type: aws-kms, region: eu-west-1, assume_role: {role_arn: %q}`, near(role)},
		{"role of a token", `type: aws-kms, region: eu-west-1, web_identity: {role_arn: %q, token_file: /t}`, near(role)},
		{"session", `type: aws-kms, region: eu-west-1, assume_role: {role_arn: "` + role + `", session_name: %q}`,
			append(near("a_+=,.@-Z"), "a", "ab", strings.Repeat("s", 64), strings.Repeat("s", 65))},
		{"server", `type: gcp-kms, endpoint: %q`, slices.Concat(near("kms.example.com:443"), near("[::1]:65535"), near("10.0.0.1:1"))},
		{"account", `type: gcp-kms, impersonate: %q`, near("kb@p-1.iam.gserviceaccount.com")},
		{"project", `type: gcp-kms, quota_project: %q`, near("example.com:p-1")},
	} {
		t.Run(test.name, func(t *testing.T) {
			right := 0
			for _, value := range test.values {
				c, err := config.Parse("c.yaml", fmt.Appendf(nil, cloud, fmt.Sprintf(test.backend, value), "local", "tikv"), environment())
				if err != nil {
					continue
				}
				right++
				checkBackend(t, c.Backends[0])
			}
			if right < 3 || right == len(test.values) {
				t.Errorf("%d of %d values are right", right, len(test.values))
			}
		})
	}
	if config.DefaultAWSSessionName != awskms.DefaultSessionName {
		t.Errorf("session name %s, and the backend's %s", config.DefaultAWSSessionName, awskms.DefaultSessionName)
	}
}
