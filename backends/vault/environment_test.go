package vault_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/vault"
)

// Nothing of the environment counts: neither what Vault's client takes from it
// nor the proxies of Go's.
func TestEnvironment(t *testing.T) {
	var strangers atomic.Int32
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		strangers.Add(1)
		w.WriteHeader(http.StatusOK)
	}))
	defer stranger.Close()
	for name, value := range map[string]string{
		"VAULT_ADDR": stranger.URL, "VAULT_AGENT_ADDR": stranger.URL, "VAULT_PROXY_ADDR": stranger.URL, "VAULT_HTTP_PROXY": stranger.URL,
		"HTTP_PROXY": stranger.URL, "HTTPS_PROXY": stranger.URL, "ALL_PROXY": stranger.URL, "http_proxy": stranger.URL, "https_proxy": stranger.URL,
		"VAULT_TOKEN": "hvs.of-the-environment", "VAULT_NAMESPACE": "of-the-environment", "VAULT_WRAP_TTL": "60s", "VAULT_MFA": "method:123456",
		"VAULT_HEADERS": `{"X-Environment":"evil"}`, "VAULT_SKIP_VERIFY": "true", "VAULT_TLS_SERVER_NAME": "evil.test", "VAULT_MAX_RETRIES": "5",
		"VAULT_CLIENT_TIMEOUT": "1ns", "VAULT_RATE_LIMIT": "0.001:1", "VAULT_SRV_LOOKUP": "true", "VAULT_DISABLE_REDIRECTS": "false",
		"VAULT_REDIRECT_ADDR": stranger.URL, "BAO_ADDR": stranger.URL, "BAO_TOKEN": "hvs.of-the-environment", "BAO_NAMESPACE": "of-the-environment",
	} {
		t.Setenv(name, value)
	}
	b := newBench(t, withAppRole(t, tikvRole()))
	b.works("tikv")
	if err := b.kms.Check(t.Context(), "tikv"); err != nil {
		t.Error(err)
	}
	for _, r := range b.vault.received("") {
		for header, values := range r.header {
			if value := strings.Join(values, " "); header == "X-Vault-Namespace" || header == "X-Vault-Wrap-Ttl" || header == "X-Environment" ||
				header == "X-Vault-Mfa" || strings.Contains(value, "environment") {
				t.Errorf("%s has %s: %s", r.path, header, value)
			}
		}
	}
	b.vault.answerWith("transit/decrypt/", answerJSON(503, "Vault is sealed"))
	w, _ := b.wrap("tikv")
	before := b.vault.count("transit/decrypt/")
	_, err := b.unwrap(t.Context(), "tikv", w)
	b.fails("Unwrap", err, backends.Unavailable)
	if n := b.vault.count("transit/decrypt/") - before; n != 1 {
		t.Errorf("it was asked %d times", n)
	}
	if n := strangers.Load(); n > 0 {
		t.Errorf("a stranger was asked %d times", n)
	}
}

// An address that Go would send to the proxy is dialled all the same.
func TestProxyOfTheEnvironment(t *testing.T) {
	var asked atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer proxy.Close()
	// Go reads these once for each process, so this test needs its own.
	inChild(t, "HTTP_PROXY="+proxy.URL, "HTTPS_PROXY="+proxy.URL, "VAULT_PROXY_ADDR="+proxy.URL)
	if os.Getenv(childVariable) != "" {
		for _, address := range []string{"http://vault.invalid:8200", "https://vault.invalid:8200"} {
			b := newBench(t, func(_ *fakeVault, cfg *vault.Config) { cfg.Address = address })
			_, _, err := b.wrapErr("tikv")
			b.fails(address, err, backends.Unavailable)
		}
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("the proxy was asked %d times", n)
	}
}

// Variables that Vault's client library cannot take are named, not repeated: a
// proxy's has a password in it.
func TestEnvironmentThatCannotBeTaken(t *testing.T) {
	for name, value := range map[string]string{
		"VAULT_SKIP_VERIFY": "perhaps-secret", "VAULT_HEADERS": `{"X-Vault-Secret":"secret"}`, "VAULT_CACERT": "/nowhere/secret",
		"VAULT_PROXY_ADDR": "http://user:secret@%zz", "VAULT_MAX_RETRIES": "secret",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, value)
			k, err := vault.New(vault.Config{Address: "http://127.0.0.1:8200", Auth: tokenAuth(t, rootToken)})
			if err == nil {
				_ = k.Close()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "unset") || strings.Contains(err.Error(), "secret") {
				t.Errorf("%v", err)
			}
		})
	}
}

// A redirect is not followed, wherever it leads: the token goes with it.
func TestRedirects(t *testing.T) {
	var followed atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		followed.Add(1)
		writeJSON(w, http.StatusOK, map[string]any{"data": map[string]any{"plaintext": "AAAA"}})
	}))
	defer elsewhere.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, path := range []string{"sys/health", "auth/token/lookup-self", "transit/keys/", "transit/decrypt/"} {
			b := newBench(t, nil)
			w, _ := b.wrap("tikv")
			b.open() // which has to begin anew
			b.vault.answerWith(path, func(rw http.ResponseWriter, r *http.Request) {
				http.Redirect(rw, r, elsewhere.URL+r.URL.Path, status)
			})
			_, err := b.unwrap(t.Context(), "tikv", w)
			b.fails(path, err, backends.Unavailable)
			if err == nil || !strings.Contains(err.Error(), elsewhere.URL) {
				t.Errorf("%d to %s: the error does not say where it leads: %v", status, path, err)
			}
			b.vault.answerWith(path, func(rw http.ResponseWriter, r *http.Request) {
				http.Redirect(rw, r, "/elsewhere", status)
			})
			_, err = b.unwrap(t.Context(), "tikv", w)
			b.fails(path, err, backends.Unavailable)
			if b.vault.count("/elsewhere") > 0 {
				t.Errorf("%d to %s: it was followed", status, path)
			}
		}
	}
	if n := followed.Load(); n > 0 {
		t.Errorf("%d were followed", n)
	}
}

// New asks nobody and reads nothing, and refuses what cannot be meant.
func TestNew(t *testing.T) {
	nowhere := filepath.Join(t.TempDir(), "nowhere")
	good := vault.Config{Address: "https://vault.invalid:8200", Auth: vault.Auth{Method: vault.MethodToken, TokenFile: nowhere}}
	for name, change := range map[string]func(*vault.Config){
		"token": func(*vault.Config) {},
		"approle": func(c *vault.Config) {
			c.Auth = vault.Auth{Method: vault.MethodAppRole, RoleIDFile: nowhere, SecretIDFile: nowhere}
		},
		"kubernetes": func(c *vault.Config) {
			c.Auth = vault.Auth{Method: vault.MethodKubernetes, Role: "r", JWTFile: nowhere}
		},
		"slash": func(c *vault.Config) { c.Address += "/" },
		"IPv6":  func(c *vault.Config) { c.Address = "http://[::1]:8200" },
		"TLS files": func(c *vault.Config) {
			c.TLS = vault.TLS{CACertFile: nowhere, ClientCertFile: nowhere, ClientKeyFile: nowhere}
		},
		"long names": func(c *vault.Config) {
			c.Namespace, c.Mount = strings.Repeat("n/", 60)+"n", strings.Repeat("m", 70)
		},
	} {
		cfg := good
		change(&cfg)
		k, err := vault.New(cfg)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := k.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, change := range map[string]func(*vault.Config){
		"no address":         func(c *vault.Config) { c.Address = "" },
		"a socket":           func(c *vault.Config) { c.Address = "unix:///run/vault.sock" },
		"a bare host":        func(c *vault.Config) { c.Address = "vault:8200" },
		"a user":             func(c *vault.Config) { c.Address = "https://user:secret@vault:8200" },
		"a path":             func(c *vault.Config) { c.Address = "https://vault:8200/v1" },
		"a query":            func(c *vault.Config) { c.Address = "https://vault:8200?token=secret" },
		"a fragment":         func(c *vault.Config) { c.Address = "https://vault:8200#secret" },
		"no host":            func(c *vault.Config) { c.Address = "https://:8200" },
		"a bad id":           func(c *vault.Config) { c.ID = "a/b" },
		"an escape in id":    func(c *vault.Config) { c.ID = "a%2Fb" },
		"a long id":          func(c *vault.Config) { c.ID = strings.Repeat("x", 65) },
		"the root namespace": func(c *vault.Config) { c.Namespace = "root" },
		"a namespace's end":  func(c *vault.Config) { c.Namespace = "team/" },
		"a namespace upward": func(c *vault.Config) { c.Namespace = "team/.." },
		"an escape in mount": func(c *vault.Config) { c.Mount = "a%2Fb" },
		"two slashes":        func(c *vault.Config) { c.Mount = "a//b" },
		"too long":           func(c *vault.Config) { c.Mount = strings.TrimSuffix(strings.Repeat("mount/", 50), "/") },
		"no method":          func(c *vault.Config) { c.Auth.Method = "" },
		"another method":     func(c *vault.Config) { c.Auth.Method = "ldap" },
		"a bad auth mount":   func(c *vault.Config) { c.Auth.Mount = "../sys" },
		"no token file":      func(c *vault.Config) { c.Auth.TokenFile = "" },
		"no secret ID":       func(c *vault.Config) { c.Auth = vault.Auth{Method: vault.MethodAppRole, RoleIDFile: nowhere} },
		"no role":            func(c *vault.Config) { c.Auth = vault.Auth{Method: vault.MethodKubernetes, JWTFile: nowhere} },
		"half a pair":        func(c *vault.Config) { c.TLS.ClientCertFile = nowhere },
		"negative":           func(c *vault.Config) { c.Timeout = -1 },
	} {
		cfg := good
		change(&cfg)
		k, err := vault.New(cfg)
		if err == nil {
			_ = k.Close()
			t.Errorf("%s: no error", name)
			continue
		}
		if strings.Contains(err.Error(), "secret@") || strings.Contains(err.Error(), "secret\"") || strings.Contains(err.Error(), "#secret") {
			t.Errorf("%s: it repeats a secret: %v", name, err)
		}
	}
}
