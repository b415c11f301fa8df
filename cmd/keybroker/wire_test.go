package main

import (
	"log/slog"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awskms"
	"github.com/keybroker/keybroker/backends/gcpkms"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/internal/config"
)

// TestSettingsOfEachType holds that each type of backend is made, with its
// provider and timeout, and that what a key says of its recipients is kept.
func TestSettingsOfEachType(t *testing.T) {
	cfg, err := config.Parse("config.yaml", []byte(`
version: 1
node: n1
listen: {grpc: {socket: /run/kb.sock}}
backends:
  local: {type: file, path: /keyring}
  main: {type: vault, address: "https://vault:8200", timeout: 1s, auth: {method: token, token_file: /t}}
  amazon: {type: aws-kms, region: eu-west-1, timeout: 4s}
  google: {type: gcp-kms, timeout: 5s}
keys:
  tikv:
    recipients:
      - {backend: amazon, key: "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"}
      - {backend: google, key: projects/p-1/locations/global/keyRings/r/cryptoKeys/k}
    hedge_after: 70ms
    context_values: hash
audit: {path: /audit.jsonl}
`), config.System("/"))
	if err != nil {
		t.Fatal(err)
	}
	w := &wiring{log: slog.New(slog.DiscardHandler)}
	settings, err := w.settings(cfg)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]broker.Backend{
		"local":  {Provider: "file", Type: "file", Timeout: fileTimeout},
		"main":   {Provider: "vault-transit", Type: "vault", Timeout: time.Second},
		"amazon": {Provider: "aws-kms", Type: "aws-kms", Timeout: 4 * time.Second},
		"google": {Provider: "gcp-kms", Type: "gcp-kms", Timeout: 5 * time.Second},
	}
	for name, b := range settings.Backends {
		if err := b.KMS.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if w := want[name]; b.Provider != w.Provider || b.Type != w.Type || b.Timeout != w.Timeout {
			t.Errorf("%s: %+v, want %+v", name, b, w)
		}
	}
	if len(settings.Backends) != len(want) {
		t.Errorf("%d backends", len(settings.Backends))
	}
	if k := settings.Keys[0]; k.HedgeAfter != 70*time.Millisecond || !k.HideContext || len(k.Recipients) != 2 || k.Recipients[1].Key != "projects/p-1/locations/global/keyRings/r/cryptoKeys/k" {
		t.Errorf("%+v", k)
	}
}

// TestKMSOfTheConfigurationInForce holds that what asks for a KMS by name gets the one
// that the last configuration made.
func TestKMSOfTheConfigurationInForce(t *testing.T) {
	w := &wiring{log: slog.New(slog.DiscardHandler)}
	load := func(backends string) *config.Config {
		t.Helper()
		cfg, err := config.Parse("config.yaml", []byte(`
version: 1
node: n1
listen: {grpc: {socket: /run/kb.sock}}
backends: {`+backends+`}
keys: {tikv: {recipients: [{backend: local, key: tikv}]}}
audit: {path: /audit.jsonl, anchor: {http: {url: "https://anchors.example.com/`+strconv.Itoa(len(backends))+`"}}}
`), config.System("/"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err = w.settings(cfg); err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	const local, main = "local: {type: file, path: /keyring}", `, main: {type: vault, address: "https://vault:8200", auth: {method: token, token_file: `
	was := load(local + main + "/t}}")
	first, err := w.kms("main")
	if err != nil {
		t.Fatal(err)
	}
	is := load(local + main + "/other}}")
	second, err := w.kms("main")
	if err != nil || first == second {
		t.Errorf("after the backend was changed: %v, the same: %v", err, first == second)
	}
	if later := needRestart(was, is); !slices.Equal(later, []string{"audit.anchor"}) {
		t.Errorf("after a restart only: %q", later)
	}
	load(local)
	if _, err := w.kms("main"); err == nil {
		t.Error("a backend that is gone is still found")
	}
	for _, k := range []backends.KMS{first, second} {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestCloudConfigs holds that nothing of a configuration is lost on the way.
func TestCloudConfigs(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for _, test := range []struct {
		name      string
		got, want any
	}{
		{"aws-kms", awsConfig(&config.AWSKMS{
			Region: "r", Profile: "p", Endpoint: "e", FIPS: true, CAFile: "c", Timeout: 1,
			AssumeRole:  &config.AWSAssumeRole{RoleARN: "a", ExternalID: "x", SessionName: "s"},
			WebIdentity: &config.AWSWebIdentity{RoleARN: "b", TokenFile: "t", SessionName: "u"},
		}, log), awskms.Config{
			Region: "r", Profile: "p", Endpoint: "e", FIPS: true, CAFile: "c", Timeout: 1, Logger: log,
			AssumeRole:  &awskms.AssumeRole{RoleARN: "a", ExternalID: "x", SessionName: "s"},
			WebIdentity: &awskms.WebIdentity{RoleARN: "b", TokenFile: "t", SessionName: "u"},
		}},
		{"aws-kms without roles", awsConfig(&config.AWSKMS{Region: "r"}, nil), awskms.Config{Region: "r"}},
		{"gcp-kms", gcpConfig(&config.GCPKMS{
			Endpoint: "e", CAFile: "c", CredentialsFile: "f", Impersonate: "i", QuotaProject: "q", Timeout: 1,
		}, log), gcpkms.Config{
			Endpoint: "e", CAFile: "c", CredentialsFile: "f", Impersonate: "i", QuotaProject: "q", Timeout: 1, Logger: log,
		}},
	} {
		if !reflect.DeepEqual(test.got, test.want) {
			t.Errorf("%s: %+v, want %+v", test.name, test.got, test.want)
		}
	}
}
