package awskms_test

import (
	"context"
	"crypto/fips140"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awskms"
)

// withSTS gives a bench a fake STS, by the environment: nothing of the KMS's
// endpoint may lead there.
func withSTS(t *testing.T, f *fakeKMS) *fakeSTS {
	t.Helper()
	s := newFakeSTS(f)
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	t.Setenv("AWS_ENDPOINT_URL_STS", server.URL)
	return s
}

func withoutCredentials(t *testing.T) {
	unset(t, "AWS_ACCESS_KEY_ID")
	unset(t, "AWS_SECRET_ACCESS_KEY")
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// used tells by which access key KMS was asked last.
func (b *bench) used() string {
	seen := b.fake.requests("")
	if len(seen) == 0 {
		return ""
	}
	return seen[len(seen)-1].access
}

func profile(name, access string) string {
	return "[" + name + "]\naws_access_key_id = " + access + "\naws_secret_access_key = " + secretKey + "\n"
}

func TestProfile(t *testing.T) {
	b := newBench(t, func(f *fakeKMS, cfg *awskms.Config) {
		// It goes before the environment.
		f.accepted["AKIDPROFILE"] = [2]string{secretKey, ""}
		writeFile(t, os.Getenv("AWS_SHARED_CREDENTIALS_FILE"), profile("default", "AKIDDEFAULT")+profile("broker", "AKIDPROFILE"))
		cfg.Profile = "broker"
	})
	b.works(tikv)
	if b.used() != "AKIDPROFILE" {
		t.Errorf("%s was used", b.used())
	}
}

// A profile that is put right counts without a restart: one that was missing, and
// keys that are not accepted any more.
func TestProfileIsReadAgain(t *testing.T) {
	b := newBench(t, func(f *fakeKMS, cfg *awskms.Config) {
		f.accepted["AKIDFIRST"] = [2]string{secretKey, ""}
		cfg.Profile = "broker"
	})
	_, _, err := b.wrapErr(tikv)
	b.fails("no profile", err, backends.Unauthenticated, `profile "broker"`, "AWS_CONFIG_FILE")
	path := os.Getenv("AWS_SHARED_CREDENTIALS_FILE")
	writeFile(t, path, profile("broker", "AKIDFIRST"))
	b.works(tikv)

	b.fake.set(func() {
		delete(b.fake.accepted, "AKIDFIRST")
		b.fake.accepted["AKIDSECOND"] = [2]string{secretKey, ""}
	})
	_, _, err = b.wrapErr(tikv)
	b.fails("refused keys", err, backends.Unauthenticated, "UnrecognizedClientException")
	if n := len(b.fake.requests("Encrypt")); n != 2 {
		t.Errorf("%d requests with credentials that have not changed", n)
	}
	writeFile(t, path, profile("broker", "AKIDSECOND"))
	b.works(tikv) // already the first call
	if b.used() != "AKIDSECOND" {
		t.Errorf("%s was used", b.used())
	}
}

func TestNoCredentials(t *testing.T) {
	b := newBench(t, func(*fakeKMS, *awskms.Config) { withoutCredentials(t) })
	for range 2 {
		_, _, err := b.wrapErr(tikv)
		b.fails("Wrap", err, backends.Unauthenticated, "no credentials for AWS", "assume_role")
		b.fails("Check", b.kms.Check(t.Context(), tikv), backends.Unauthenticated)
	}
	if n := len(b.fake.requests("")); n != 0 {
		t.Errorf("%d requests without credentials", n)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", accessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secretKey)
	b.works(tikv)
}

// What a credential_process writes is not shown.
func TestCredentialProcess(t *testing.T) {
	b := newBench(t, func(_ *fakeKMS, cfg *awskms.Config) {
		cfg.Profile = "broker"
		writeFile(t, os.Getenv("AWS_CONFIG_FILE"), "[profile broker]\ncredential_process = echo the-secret-of-the-process\n")
	})
	_, _, err := b.wrapErr(tikv)
	b.fails("Wrap", err, backends.Unauthenticated, "credential_process")
	if strings.Contains(err.Error(), "the-secret") {
		t.Errorf("%v", err)
	}
}

func TestAssumeRole(t *testing.T) {
	var s *fakeSTS
	b := newBench(t, func(f *fakeKMS, cfg *awskms.Config) {
		s = withSTS(t, f)
		s.externalID = "the-external-id"
		cfg.AssumeRole = &awskms.AssumeRole{RoleARN: role, ExternalID: "the-external-id", SessionName: "store-1"}
	})
	b.works(tikv)
	calls := s.calls()
	if len(calls) != 1 || calls[0].Get("RoleArn") != role || calls[0].Get("RoleSessionName") != "store-1" || calls[0].Get("ExternalId") != "the-external-id" {
		t.Errorf("%v", calls)
	}
	if !strings.HasPrefix(b.used(), "ASIA") {
		t.Errorf("%s was used", b.used())
	}
}

// A role that may not be assumed says nothing about the key.
func TestAssumeRoleIsDenied(t *testing.T) {
	b := newBench(t, func(f *fakeKMS, cfg *awskms.Config) {
		withSTS(t, f).externalID = "the-external-id"
		cfg.AssumeRole = &awskms.AssumeRole{RoleARN: role}
	})
	_, _, err := b.wrapErr(tikv)
	b.fails("Wrap", err, backends.Unauthenticated, "AssumeRole", "AccessDenied", role, "22222222-3333-4444-5555-666666666666", "external id")
	b.fails("Check", b.kms.Check(t.Context(), tikv), backends.Unauthenticated)
	if n := len(b.fake.requests("")); n != 0 {
		t.Errorf("KMS was asked %d times", n)
	}
}

// Credentials that STS takes back are replaced, and no caller sees it.
func TestSessionIsReplaced(t *testing.T) {
	b := newBench(t, func(f *fakeKMS, cfg *awskms.Config) {
		withSTS(t, f)
		cfg.AssumeRole = &awskms.AssumeRole{RoleARN: role}
	})
	b.works(tikv)
	first := b.used()
	b.fake.set(func() { b.fake.accepted[first] = [2]string{"another secret", "another token"} })
	b.works(tikv)
	if b.used() == first {
		t.Error("the former credentials were used")
	}
}

func TestWebIdentity(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	writeFile(t, token, "an-old-token")
	var s *fakeSTS
	b := newBench(t, func(f *fakeKMS, cfg *awskms.Config) {
		withoutCredentials(t)
		s = withSTS(t, f)
		s.token = "the-token"
		cfg.WebIdentity = &awskms.WebIdentity{RoleARN: role, TokenFile: token}
	})
	_, _, err := b.wrapErr(tikv)
	b.fails("an old token", err, backends.Unauthenticated, "AssumeRoleWithWebIdentity", "ExpiredTokenException")
	if strings.Contains(err.Error(), "an-old-token") {
		t.Errorf("%v", err)
	}
	writeFile(t, token, "the-token")
	b.works(tikv)
	if last := s.calls()[len(s.calls())-1]; last.Get("RoleArn") != role || last.Get("RoleSessionName") != awskms.DefaultSessionName {
		t.Errorf("%v", last)
	}
	missing := open(t, awskms.Config{Region: region, Endpoint: b.cfg.Endpoint, WebIdentity: &awskms.WebIdentity{RoleARN: role, TokenFile: token + ".gone"}})
	fails(t, "no token file", missing.Check(t.Context(), tikv), backends.Unauthenticated, token+".gone")
}

// A role is assumed by the credentials of a web identity.
func TestWebIdentityThenRole(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	writeFile(t, token, "the-token")
	var s *fakeSTS
	b := newBench(t, func(f *fakeKMS, cfg *awskms.Config) {
		withoutCredentials(t)
		s = withSTS(t, f)
		s.token = "the-token"
		cfg.WebIdentity = &awskms.WebIdentity{RoleARN: role, TokenFile: token}
		cfg.AssumeRole = &awskms.AssumeRole{RoleARN: role + "-of-kms"}
	})
	b.works(tikv)
	calls := s.calls()
	if len(calls) != 2 || calls[0].Get("Action") != "AssumeRoleWithWebIdentity" || calls[1].Get("RoleArn") != role+"-of-kms" {
		t.Errorf("%v", calls)
	}
}

// As a Pod with a service account's role has it.
func TestWebIdentityByTheEnvironment(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	writeFile(t, token, "the-token")
	b := newBench(t, func(f *fakeKMS, _ *awskms.Config) {
		withoutCredentials(t)
		withSTS(t, f).token = "the-token"
		t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", token)
		t.Setenv("AWS_ROLE_ARN", role)
	})
	b.works(tikv)
}

// That STS is out of reach, or does not serve, is no refusal of the credentials.
func TestSTSIsDown(t *testing.T) {
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		want   backends.Class
	}{
		"a lost connection":    {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, backends.Unavailable},
		"an outage":            {func(w http.ResponseWriter, _ *http.Request) { stsError(w, 503, "ServiceUnavailable", "") }, backends.Unavailable},
		"a failure":            {func(w http.ResponseWriter, _ *http.Request) { stsError(w, 500, "InternalFailure", "") }, backends.Unavailable},
		"a proxy":              {answerText(502, "text/html", "<html>"), backends.Unavailable},
		"a proxy that says no": {answerText(403, "text/html", "<html>"), backends.Unavailable},
		"too many calls":       {func(w http.ResponseWriter, _ *http.Request) { stsError(w, 400, "Throttling", "Rate exceeded") }, backends.Throttled},
		"a region not in use":  {func(w http.ResponseWriter, _ *http.Request) { stsError(w, 403, "RegionDisabledException", "") }, backends.Unauthenticated},
		"nothing":              {answerText(200, "text/xml", ""), backends.Unauthenticated},
		"it hangs":             {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, backends.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			var s *fakeSTS
			b := newBench(t, func(f *fakeKMS, cfg *awskms.Config) {
				s = withSTS(t, f)
				s.instead = test.answer
				cfg.AssumeRole = &awskms.AssumeRole{RoleARN: role}
				cfg.Timeout = 2 * time.Second
				if name == "it hangs" {
					cfg.Timeout = 50 * time.Millisecond
				}
			})
			_, _, err := b.wrapErr(tikv)
			b.fails("Wrap", err, test.want)
			if name == "it hangs" {
				return // the server is still busy with it
			}
			s.set(func() { s.instead = nil })
			b.works(tikv)
		})
	}
}

// bubble is synctest.Test. The FIPS module's entropy comes from how long things
// take, and in a bubble nothing takes any time: when the module wants more of it
// there, it ends the process.
func bubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	if fips140.Enabled() {
		t.Skip("GODEBUG=fips140: crypto/rand cannot gather entropy in a synctest bubble")
	}
	synctest.Test(t, f)
}

// source gives credentials of an hour, or fails, after a while.
type source struct {
	asked atomic.Int32
	takes time.Duration
	fails atomic.Bool
}

func (s *source) Retrieve(ctx context.Context) (aws.Credentials, error) {
	n := s.asked.Add(1)
	select {
	case <-time.After(s.takes):
	case <-ctx.Done():
		return aws.Credentials{}, ctx.Err()
	}
	if s.fails.Load() {
		return aws.Credentials{}, errors.New("STS is down")
	}
	return aws.Credentials{
		AccessKeyID: string('a' + n), SecretAccessKey: "s", CanExpire: true, Expires: time.Now().Add(time.Hour),
	}, nil
}

// retrieve returns the access key, and how long it was waited for.
func retrieve(t *testing.T, c aws.CredentialsProvider) (string, time.Duration) {
	t.Helper()
	began := time.Now()
	got, err := c.Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return got.AccessKeyID, time.Since(began)
}

// Only the first call waits. Later ones go on with what is there while it is
// renewed, and while that fails.
func TestRenewalInTheBackground(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ctx, end := context.WithCancel(t.Context())
		s := &source{takes: time.Second}
		c, wait := awskms.NewCredentials(ctx, s, 5*time.Second)
		first, waited := retrieve(t, c)
		if waited != time.Second {
			t.Errorf("the first call waits %v", waited)
		}
		time.Sleep(54 * time.Minute)
		if got, waited := retrieve(t, c); got != first || waited != 0 || s.asked.Load() != 1 {
			t.Errorf("six minutes before the end: %q after %v, asked %d times", got, waited, s.asked.Load())
		}
		s.fails.Store(true)
		time.Sleep(3 * time.Minute) // within the window, whatever the jitter
		for range 100 {
			if got, waited := retrieve(t, c); got != first || waited != 0 {
				t.Errorf("while the source is down: %q after %v", got, waited)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := s.asked.Load(); n != 2 {
			t.Errorf("asked %d times within ten seconds, want once again", n)
		}
		s.fails.Store(false)
		time.Sleep(10 * time.Second)
		if got, waited := retrieve(t, c); got != first || waited != 0 {
			t.Errorf("when the source is up again: %q after %v", got, waited)
		}
		time.Sleep(2 * time.Second)
		if got, waited := retrieve(t, c); got == first || waited != 0 {
			t.Errorf("after the renewal: %q after %v", got, waited)
		}
		time.Sleep(2 * time.Hour)
		s.fails.Store(true)
		if got, err := c.Retrieve(t.Context()); err == nil {
			t.Errorf("credentials that have ended: %v", got.AccessKeyID)
		}
		end()
		wait()
		if _, err := c.Retrieve(t.Context()); err == nil {
			t.Error("credentials after the end")
		}
	})
}

// Those that wait at once ask once, and none longer than it wants to.
func TestRenewalIsShared(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ctx, end := context.WithCancel(t.Context())
		s := &source{takes: time.Second}
		c, wait := awskms.NewCredentials(ctx, s, 5*time.Second)
		got := make(chan error)
		for range 10 {
			go func() { _, err := c.Retrieve(t.Context()); got <- err }()
		}
		impatient, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := c.Retrieve(impatient); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		for range 10 {
			if err := <-got; err != nil {
				t.Error(err)
			}
		}
		if n := s.asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		s.takes = time.Hour
		time.Sleep(2 * time.Hour)
		began := time.Now()
		if _, err := c.Retrieve(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 5*time.Second {
			t.Errorf("a source that hangs: %v after %v", err, time.Since(began))
		}
		go func() { _, err := c.Retrieve(t.Context()); got <- err }()
		synctest.Wait()
		end()
		wait()
		if err := <-got; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
}
