package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awskms"
	"github.com/keybroker/keybroker/backends/file"
	"github.com/keybroker/keybroker/backends/gcpkms"
	"github.com/keybroker/keybroker/backends/vault"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/envelope"
	"github.com/keybroker/keybroker/broker/policy"
	"github.com/keybroker/keybroker/cache"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/secret"
	"github.com/keybroker/keybroker/internal/telemetry"
)

// wiring turns configurations into settings. It keeps the KMSs it has made, so
// that a backend whose configuration a reload does not change keeps its
// connections, its login and its name in the caches.
type wiring struct {
	path    string
	log     *slog.Logger
	metrics *telemetry.Metrics
	// started is the configuration that the broker was started with: of some of
	// it, a reload changes nothing.
	started *config.Config

	mu   sync.Mutex
	made map[string]madeKMS // by backend name
}

type madeKMS struct {
	of  config.Backend
	kms backends.KMS
}

// load reads the configuration file and returns settings for all of it.
func (w *wiring) load(context.Context) (broker.Settings, error) {
	cfg, err := config.Load(w.path)
	var settings broker.Settings
	if err == nil {
		settings, err = w.settings(cfg)
	}
	w.metrics.Reloaded(err == nil)
	if err != nil {
		return settings, err
	}
	for _, warning := range cfg.Warnings {
		settings.Warnings = append(settings.Warnings, warning.String())
	}
	if later := needRestart(w.started, cfg); len(later) > 0 {
		settings.Warnings = append(settings.Warnings, strings.Join(later, ", ")+" changed, which holds after a restart only")
	}
	return settings, nil
}

// needRestart names the parts of the configuration that differ and that a reload
// does not change.
func needRestart(was, is *config.Config) []string {
	var parts []string
	for _, part := range []struct {
		name    string
		was, is any
	}{
		{"node", was.Node, is.Node},
		{"listen", was.Listen, is.Listen},
		{"audit.path", was.Audit.Path, is.Audit.Path},
		{"audit.sync", was.Audit.SyncAlways, is.Audit.SyncAlways},
		{"audit.sync_interval", was.Audit.SyncInterval, is.Audit.SyncInterval},
		{"audit.rotate", was.Audit.Rotate, is.Audit.Rotate},
		{"audit.signing_key", was.Audit.SigningKey, is.Audit.SigningKey},
		{"audit.checkpoint_interval", was.Audit.CheckpointInterval, is.Audit.CheckpointInterval},
		{"audit.min_free", was.Audit.MinFree, is.Audit.MinFree},
		{"audit.export", was.Audit.OTLP, is.Audit.OTLP},
		{"audit.anchor", was.Audit.Anchor, is.Audit.Anchor},
		{"memory", was.Memory, is.Memory},
		{"cache", was.Cache, is.Cache},
	} {
		if !reflect.DeepEqual(part.was, part.is) {
			parts = append(parts, part.name)
		}
	}
	return parts
}

// settings returns the broker's settings for cfg. Backends that are new are
// made, without a network call; those that are gone are forgotten, and closed by
// the broker.
func (w *wiring) settings(cfg *config.Config) (_ broker.Settings, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, err := policy.New(cfg.Clients)
	if err != nil {
		return broker.Settings{}, err
	}
	var fresh []backends.KMS
	defer func() {
		if err != nil {
			for _, kms := range fresh {
				err = errors.Join(err, kms.Close())
			}
		}
	}()
	s := broker.Settings{
		Backends:       make(map[string]broker.Backend, len(cfg.Backends)),
		Policy:         p,
		MissRates:      cfg.MissRates,
		AccessKeys:     make(map[string]secret.Value, len(cfg.AccessKeys)),
		AllowUnaudited: cfg.Audit.AllowUnaudited,
		SHA256:         cfg.SHA256,
	}
	made := make(map[string]madeKMS, len(cfg.Backends))
	for _, b := range cfg.Backends {
		m, ok := w.made[b.Name]
		if !ok || !reflect.DeepEqual(m.of, b) {
			kms, err := w.newKMS(b)
			if err != nil {
				return broker.Settings{}, fmt.Errorf("backend %s: %w", b.Name, err)
			}
			fresh = append(fresh, kms)
			m = madeKMS{of: b, kms: kms}
		}
		made[b.Name] = m
		s.Backends[b.Name] = brokerBackend(b, m.kms)
	}
	for _, k := range cfg.Keys {
		key, err := brokerKey(k)
		if err != nil {
			return broker.Settings{}, fmt.Errorf("key %s: %w", k.Name, err)
		}
		s.Keys = append(s.Keys, key)
	}
	for _, k := range cfg.AccessKeys {
		of, err := config.ReadSecretKey(k.SecretFile)
		if err != nil {
			return broker.Settings{}, fmt.Errorf("access key %s: %w", k.ID, err)
		}
		s.AccessKeys[k.ID] = secret.NewValue(of)
	}
	w.made = made
	return s, nil
}

// kms returns the KMS of the configuration in force that is called name.
func (w *wiring) kms(name string) (backends.KMS, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m, ok := w.made[name]
	if !ok {
		return nil, fmt.Errorf("backend %s is not in the configuration any more; where the audit log is anchored changes at a restart", name)
	}
	return m.kms, nil
}

// newKMS makes the KMS of one backend.
//
//nolint:contextcheck,nolintlint // a KMS outlives the call that makes it; contextcheck looks here, and nolintlint does not see it
func (w *wiring) newKMS(b config.Backend) (backends.KMS, error) {
	log := w.log.With("backend", b.Name)
	switch b.Type {
	case config.TypeFile:
		return file.New(file.Config{Dir: b.File.Path})
	case config.TypeVault:
		v := b.Vault
		return vault.New(vault.Config{
			Address: v.Address, ID: v.ID, Namespace: v.Namespace, Mount: v.Mount,
			Auth: vault.Auth{
				Method: v.Auth.Method, Mount: v.Auth.Mount, TokenFile: v.Auth.TokenFile,
				RoleIDFile: v.Auth.RoleIDFile, SecretIDFile: v.Auth.SecretIDFile, SecretIDWrapped: v.Auth.SecretIDWrapped,
				Role: v.Auth.Role, JWTFile: v.Auth.JWTFile,
			},
			TLS: vault.TLS{
				CACertFile: v.TLS.CAFile, ClientCertFile: v.TLS.CertFile, ClientKeyFile: v.TLS.KeyFile, ServerName: v.TLS.ServerName,
			},
			Timeout: v.Timeout,
			Logger:  log,
		})
	case config.TypeAWSKMS:
		return awskms.New(awsConfig(b.AWSKMS, log))
	case config.TypeGCPKMS:
		return gcpkms.New(gcpConfig(b.GCPKMS, log))
	default:
		return nil, fmt.Errorf("type %s is unknown", b.Type)
	}
}

func awsConfig(a *config.AWSKMS, log *slog.Logger) awskms.Config {
	cfg := awskms.Config{
		Region: a.Region, Profile: a.Profile, Endpoint: a.Endpoint, FIPS: a.FIPS, CAFile: a.CAFile,
		Timeout: a.Timeout,
		Logger:  log,
	}
	if r := a.AssumeRole; r != nil {
		cfg.AssumeRole = &awskms.AssumeRole{RoleARN: r.RoleARN, ExternalID: r.ExternalID, SessionName: r.SessionName}
	}
	if i := a.WebIdentity; i != nil {
		cfg.WebIdentity = &awskms.WebIdentity{RoleARN: i.RoleARN, TokenFile: i.TokenFile, SessionName: i.SessionName}
	}
	return cfg
}

func gcpConfig(g *config.GCPKMS, log *slog.Logger) gcpkms.Config {
	return gcpkms.Config{
		Endpoint: g.Endpoint, CAFile: g.CAFile, CredentialsFile: g.CredentialsFile,
		Impersonate: g.Impersonate, QuotaProject: g.QuotaProject,
		Timeout: g.Timeout,
		Logger:  log,
	}
}

// fileTimeout bounds a call of a local keyring: long for a disk, short for a
// caller.
const fileTimeout = 2 * time.Second

func brokerBackend(b config.Backend, kms backends.KMS) broker.Backend {
	out := broker.Backend{KMS: kms, Type: b.Type, KeyOf: lastPart}
	switch b.Type {
	case config.TypeFile:
		out.Provider, out.Timeout = file.Provider, fileTimeout
	case config.TypeVault:
		out.Provider, out.Timeout = vault.Provider, b.Vault.Timeout
	case config.TypeAWSKMS:
		out.Provider, out.Timeout, out.KeyOf = awskms.Provider, b.AWSKMS.Timeout, whole
	case config.TypeGCPKMS:
		out.Provider, out.Timeout, out.KeyOf = gcpkms.Provider, b.GCPKMS.Timeout, whole
	}
	return out
}

// whole is a reference that the configuration writes as it is.
func whole(reference string) string { return reference }

// lastPart is what the configuration writes of a keyring's and of Transit's
// references: the rest says where the key is.
func lastPart(reference string) string { return reference[strings.LastIndexByte(reference, '/')+1:] }

func brokerKey(k config.Key) (broker.Key, error) {
	pairs, err := envelope.NewPairs(k.Context)
	if err != nil {
		return broker.Key{}, err
	}
	out := broker.Key{
		Name: k.Name, Aliases: k.Aliases,
		Recipients: brokerRecipients(k.Recipients), FormerRecipients: brokerRecipients(k.FormerRecipients),
		MinRecipients: k.MinRecipients, HedgeAfter: k.HedgeAfter, CheckInterval: k.CheckInterval, Context: pairs,
		Limits: cache.Limits{TTL: k.TTL, RefreshAfter: k.RefreshAfter, MaxStale: k.MaxStale, NegativeTTL: k.NegativeTTL},
		Warm:   k.Warm, HideContext: k.HideContext,
		MaxAge: k.MaxAge, MaxUses: k.MaxUses,
	}
	for _, former := range k.FormerContexts {
		pairs, err := envelope.NewPairs(former)
		if err != nil {
			return broker.Key{}, err
		}
		out.FormerContexts = append(out.FormerContexts, pairs)
	}
	if p := k.Passthrough; p != nil {
		out.Passthrough = &broker.Passthrough{Recipient: broker.Recipient{Backend: p.Backend, Key: p.Key}}
		for _, context := range p.Contexts {
			pairs, err := envelope.NewPairs(context)
			if err != nil {
				return broker.Key{}, err
			}
			out.Passthrough.Contexts = append(out.Passthrough.Contexts, pairs)
		}
	}
	return out, nil
}

func brokerRecipients(rs []config.Recipient) []broker.Recipient {
	out := make([]broker.Recipient, len(rs))
	for i, r := range rs {
		out[i] = broker.Recipient{Backend: r.Backend, Key: r.Key}
	}
	return out
}

// serverTLS returns the TLS of a listener: with clientCAFile 1.3, and only for
// clients with a certificate of that CA. All files are read again for each
// handshake, so that renewed ones are used without a restart; while they cannot be
// read, handshakes fail.
func serverTLS(certFile, keyFile, clientCAFile string) (*tls.Config, error) {
	read := func(*tls.ClientHelloInfo) (*tls.Config, error) {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, err
		}
		cfg := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}}
		if clientCAFile == "" {
			// The SDKs of older stores know neither TLS 1.3 nor HTTP/2.
			cfg.MinVersion, cfg.NextProtos = tls.VersionTLS12, []string{"h2", "http/1.1"}
			return cfg, nil
		}
		pem, err := os.ReadFile(clientCAFile)
		if err != nil {
			return nil, err
		}
		cfg.ClientCAs = x509.NewCertPool()
		if !cfg.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate in PEM form", clientCAFile)
		}
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
		return cfg, nil
	}
	cfg, err := read(nil)
	if err != nil {
		return nil, err
	}
	cfg.GetConfigForClient = read
	return cfg, nil
}
