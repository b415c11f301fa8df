package gcpkms_test

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/gcpkms"
	"github.com/keybroker/keybroker/backends/gcpkms/gcptest"
)

// redirected sends what is for Google's token servers to a test's.
type redirected struct{ to string }

func (r redirected) RoundTrip(req *http.Request) (*http.Response, error) {
	to, err := url.Parse(r.to)
	if err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	req.URL.Scheme, req.URL.Host = to.Scheme, to.Host
	return http.DefaultTransport.RoundTrip(req)
}

// lastCall is what came with the last call.
func (b *bench) lastCall() gcptest.Received {
	b.Helper()
	all := b.cloud.Received()
	if len(all) == 0 {
		b.Fatal("no call came")
	}
	return all[len(all)-1]
}

// Who the broker is in Cloud KMS, by each way to say so.
func TestIdentities(t *testing.T) {
	for _, test := range []struct {
		name          string
		change        func(t *testing.T, s *gcptest.Server, cfg *gcpkms.Config)
		want, project string
	}{
		{"a service account's key", func(*testing.T, *gcptest.Server, *gcpkms.Config) {}, gcptest.ServiceAccount, ""},
		{"federation", func(_ *testing.T, s *gcptest.Server, cfg *gcpkms.Config) { cfg.CredentialsFile = s.FederatedFile() },
			gcptest.FederatedAccount, "quota-of-the-file"},
		{"an impersonating file", func(_ *testing.T, s *gcptest.Server, cfg *gcpkms.Config) { cfg.CredentialsFile = s.ImpersonatedFile() },
			gcptest.ImpersonatedAccount, ""},
		{"impersonation", func(_ *testing.T, s *gcptest.Server, cfg *gcpkms.Config) {
			cfg.Impersonate = gcptest.ImpersonatedAccount
			*cfg = gcpkms.WithTransport(*cfg, redirected{s.TokenURL()})
		}, gcptest.ImpersonatedAccount, ""},
		{"the environment's file", func(t *testing.T, _ *gcptest.Server, cfg *gcpkms.Config) {
			t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", cfg.CredentialsFile)
			cfg.CredentialsFile = ""
		}, gcptest.ServiceAccount, ""},
		{"gcloud's file", func(t *testing.T, _ *gcptest.Server, cfg *gcpkms.Config) {
			home := t.TempDir()
			t.Setenv("HOME", home)
			content, err := os.ReadFile(cfg.CredentialsFile)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(home, ".config", "gcloud"), 0o700); err != nil {
				t.Fatal(err)
			}
			replaceFile(t, filepath.Join(home, ".config", "gcloud", "application_default_credentials.json"), content)
			cfg.CredentialsFile = ""
		}, gcptest.ServiceAccount, ""},
		{"the metadata server", func(t *testing.T, s *gcptest.Server, cfg *gcpkms.Config) {
			t.Setenv("GCE_METADATA_HOST", s.MetadataHost())
			cfg.CredentialsFile = ""
		}, gcptest.MetadataAccount, ""},
		{"a quota project", func(_ *testing.T, s *gcptest.Server, cfg *gcpkms.Config) {
			cfg.CredentialsFile, cfg.QuotaProject = s.FederatedFile(), "quota-of-the-config"
		}, gcptest.FederatedAccount, "quota-of-the-config"},
		{"the environment's quota project", func(t *testing.T, _ *gcptest.Server, _ *gcpkms.Config) {
			t.Setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "quota-of-the-environment")
		}, gcptest.ServiceAccount, "quota-of-the-environment"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, func(s *gcptest.Server, cfg *gcpkms.Config) { test.change(t, s, cfg) })
			b.works()
			b.works()
			got := b.lastCall()
			if got.Principal != test.want || got.QuotaProject != test.project || !strings.HasPrefix(got.UserAgent, "keybroker ") {
				t.Errorf("%+v", got)
			}
			if n := b.cloud.TokenRequests(); n > 1 {
				t.Errorf("%d tokens were fetched for four calls", n)
			}
			http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		})
	}
}

// replaceFile puts a new file in place of the one at path.
func replaceFile(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// A file that is not there yet, or no good, is looked for by each call.
func TestFilesThatComeLater(t *testing.T) {
	for _, which := range []string{"credentials", "ca"} {
		t.Run(which, func(t *testing.T) {
			var path, good string
			b := newBench(t, func(_ *gcptest.Server, cfg *gcpkms.Config) {
				path = filepath.Join(t.TempDir(), "later")
				if which == "ca" {
					good, cfg.CAFile = cfg.CAFile, path
				} else {
					good, cfg.CredentialsFile = cfg.CredentialsFile, path
				}
			})
			class := backends.Unauthenticated
			if which == "ca" {
				class = backends.Unavailable
			}
			_, _, err := b.wrapErr()
			b.fails("not there", err, class, path, which)
			for name, content := range map[string]string{
				"empty": "", "text": "private-secret", "no type": `{"private_key":"private-secret"}`, "a strange type": `{"type":"private","private_key":"private-secret"}`,
				"half a key": `{"type":"service_account","private_key":"private-secret"}`, "bad federation": `{"type":"external_account","token_url":"private-secret"}`,
			} {
				replaceFile(t, path, []byte(content))
				_, _, err := b.wrapErr()
				b.fails(name, err, class, path)
				if strings.Contains(err.Error(), "private-secret") {
					t.Errorf("%s: it quotes the file: %v", name, err)
				}
			}
			content, err := os.ReadFile(good)
			if err != nil {
				t.Fatal(err)
			}
			replaceFile(t, path, content)
			b.works()
		})
	}
}

// What token servers answer, and what it means.
func TestTokenServerAnswers(t *testing.T) {
	for _, test := range []struct {
		name  string
		code  int
		body  string
		want  backends.Class
		words []string
	}{
		{"refused", 400, `{"error":"invalid_grant","error_description":"no: subject-token-of-the-test"}`, backends.Unauthenticated, []string{"invalid_grant", "400"}},
		{"refused with a page", 403, "<html>subject-token-of-the-test", backends.Unauthenticated, []string{"403"}},
		{"unauthorized", 401, `{"error":"subject-token-of-the-test"}`, backends.Unauthenticated, []string{"401"}},
		{"not there", 404, "", backends.Unauthenticated, []string{"404"}},
		{"too many", 429, "", backends.Unavailable, []string{"429"}},
		{"broken", 500, "", backends.Unavailable, []string{"500"}},
		{"overloaded", 503, "", backends.Unavailable, []string{"503"}},
		{"no JSON", 200, "subject-token-of-the-test", backends.Unauthenticated, nil},
		{"no token", 200, "{}", backends.Unauthenticated, nil},
	} {
		for _, way := range []string{"federation", "impersonation"} {
			b := newBench(t, func(s *gcptest.Server, cfg *gcpkms.Config) {
				cfg.CredentialsFile, cfg.Timeout = s.FederatedFile(), 2*time.Second
				if way == "impersonation" {
					cfg.CredentialsFile = s.ImpersonatedFile()
				}
			})
			b.cloud.FailTokens(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(test.code)
				_, _ = w.Write([]byte(test.body))
			})
			_, _, err := b.wrapErr()
			words := test.words
			if way == "impersonation" && len(words) > 0 {
				words = words[len(words)-1:] // its errors have no OAuth code
			}
			b.fails(way+": "+test.name, err, test.want, words...)
			if strings.Contains(fmt.Sprintf("%v %+v", err, err)+b.log.String(), "subject-token-of-the-test") {
				t.Errorf("%s: %s: it quotes the credential: %v", way, test.name, err)
			}
			if n := b.cloud.Requests(""); n > 0 {
				t.Errorf("%s: %s: %d calls were made", way, test.name, n)
			}
			b.cloud.FailTokens(nil)
			b.works()
		}
	}
}

// The role that an impersonation lacks is named.
func TestImpersonationDenied(t *testing.T) {
	b := newBench(t, func(s *gcptest.Server, cfg *gcpkms.Config) {
		cfg.Impersonate = "stranger@gcptest.iam.gserviceaccount.com"
		*cfg = gcpkms.WithTransport(*cfg, redirected{s.TokenURL()})
	})
	_, _, err := b.wrapErr()
	b.fails("Wrap", err, backends.Unauthenticated, "roles/iam.serviceAccountTokenCreator on stranger@gcptest.iam.gserviceaccount.com")
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

// A token or metadata server that cannot be reached says nothing of credentials.
func TestTokenServerDown(t *testing.T) {
	down := gcptest.New(t)
	b := newBench(t, func(s *gcptest.Server, cfg *gcpkms.Config) {
		cfg.CredentialsFile, cfg.Timeout = s.FederatedFile(), 2*time.Second
	})
	content, err := os.ReadFile(b.cfg.CredentialsFile)
	if err != nil {
		t.Fatal(err)
	}
	broken := strings.ReplaceAll(string(content), b.cloud.TokenURL(), "http://127.0.0.1:1")
	replaceFile(t, b.cfg.CredentialsFile, []byte(broken))
	_, _, err = b.wrapErr()
	b.fails("token server", err, backends.Unavailable, "127.0.0.1:1")
	replaceFile(t, b.cfg.CredentialsFile, content)
	b.works()

	b.cfg.CredentialsFile, b.cfg.Timeout = "", 500*time.Millisecond
	b.open() // TestMain has set a metadata server that is not there
	_, _, err = b.wrapErr()
	b.fails("metadata server", err, backends.Unavailable)
	t.Setenv("GCE_METADATA_HOST", down.MetadataHost())
	down.FailTokens(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	b.open()
	_, _, err = b.wrapErr()
	b.fails("a VM without an account", err, backends.Unauthenticated, "service account")
	t.Setenv("GCE_METADATA_HOST", b.cloud.MetadataHost())
	b.works()
}

// A token that Cloud KMS does not accept is replaced, and the file of the
// credentials read again.
func TestRevokedToken(t *testing.T) {
	b := newBench(t, func(s *gcptest.Server, cfg *gcpkms.Config) { cfg.CredentialsFile = s.FederatedFile() })
	b.works()
	b.cloud.RevokeTokens()
	_, _, err := b.wrapErr()
	b.fails("revoked", err, backends.Unauthenticated)
	b.works()

	b.cfg.CredentialsFile = b.cloud.CredentialsFile()
	b.open()
	b.works()
	b.cloud.DisableAccount(true)
	_, _, err = b.wrapErr()
	b.fails("disabled", err, backends.Unauthenticated, "disabled or deleted")
	content, err := os.ReadFile(b.cloud.FederatedFile())
	if err != nil {
		t.Fatal(err)
	}
	replaceFile(t, b.cfg.CredentialsFile, content)
	b.works()
	if got := b.lastCall(); got.Principal != gcptest.FederatedAccount {
		t.Errorf("%+v", got)
	}
}

// Callers that need the same token wait for one fetch, each no longer than its
// own ctx.
func TestTokenEnds(t *testing.T) {
	b := newBench(t, func(s *gcptest.Server, cfg *gcpkms.Config) { cfg.CredentialsFile = s.FederatedFile() })
	b.cloud.SetLifetime(5 * time.Second) // less than what is left of a token that is used
	b.works()
	if n := b.cloud.TokenRequests(); n < 2 {
		t.Errorf("%d tokens for two calls, want one each", n)
	}
	b.cloud.SetLifetime(time.Hour)
	b.works()
	n := b.cloud.TokenRequests()
	b.works()
	if got := b.cloud.TokenRequests(); got != n {
		t.Errorf("%d more tokens were fetched", got-n)
	}
}

// The libraries' debug logs, which hold whole messages and tokens, stay off.
func TestDebugLogsOfTheLibraries(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr := os.Stderr
	os.Stderr = write
	t.Cleanup(func() { os.Stderr = stderr })
	for name, value := range map[string]string{"GOOGLE_SDK_GO_LOGGING_LEVEL": "debug", "GOOGLE_SDK_GO_EXPERIMENTAL_LOGGING": "true"} {
		t.Setenv(name, value)
	}
	b := newBench(t, func(s *gcptest.Server, cfg *gcpkms.Config) { cfg.CredentialsFile = s.ImpersonatedFile() })
	b.works()
	b.isFine("Check", b.kms.Check(t.Context(), tikv))
	_ = write.Close()
	os.Stderr = stderr
	out := make([]byte, 1<<16)
	n, _ := read.Read(out)
	_ = read.Close()
	if n > 0 || b.log.String() != "" {
		t.Errorf("logged: %s%s", out[:n], b.log.String())
	}
}
