package gcpkms

import (
	"bytes"
	"crypto/fips140"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keybroker/keybroker/backends"
)

// roundTripper is a token server without a network.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A token is replaced in the background before it ends; while that fails, the old
// one serves until its last seconds, and what fails is logged with pauses.
func TestTokensAreReplaced(t *testing.T) {
	if fips140.Enabled() {
		t.Skip("GODEBUG=fips140: crypto/rand cannot gather entropy in a synctest bubble")
	}
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		subject := filepath.Join(dir, "subject")
		file := filepath.Join(dir, "credentials.json")
		for path, content := range map[string]string{subject: "subject", file: fmt.Sprintf(
			`{"type":"external_account","audience":"//iam","subject_token_type":"urn:ietf:params:oauth:token-type:jwt","token_url":"https://sts.test/","credential_source":{"file":%q}}`, subject)} {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var asked int
		var down bool
		log := &bytes.Buffer{}
		k, err := New(Config{CredentialsFile: file, Logger: slog.New(slog.NewTextHandler(log, nil)), transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			asked++
			time.Sleep(100 * time.Millisecond)
			if down {
				return nil, errors.New("the network is down")
			}
			body := fmt.Sprintf(`{"access_token":"token-%d","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":3600}`, asked)
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
		})})
		if err != nil {
			t.Fatal(err)
		}
		is := func(what, want string, fetches int) {
			t.Helper()
			id, err := k.tokens.get(t.Context())
			switch {
			case err != nil:
				t.Errorf("%s: %v", what, err)
			case id.token.Value != want:
				t.Errorf("%s: %s, want %s", what, id.token.Value, want)
			}
			time.Sleep(time.Second) // for what goes on in the background
			synctest.Wait()
			if asked != fetches {
				t.Errorf("%s: %d fetches, want %d", what, asked, fetches)
			}
		}
		var all errgroup.Group
		for range 64 {
			all.Go(func() error { _, err := k.tokens.get(t.Context()); return err })
		}
		if err := all.Wait(); err != nil {
			t.Error(err)
		}
		is("64 at once", "token-1", 1)
		time.Sleep(55 * time.Minute)
		is("five minutes before its end", "token-1", 1)
		time.Sleep(2 * time.Minute)
		is("three minutes before its end", "token-1", 2)
		is("then", "token-2", 2)

		down = true
		time.Sleep(57 * time.Minute)
		is("while the network is down", "token-2", 3)
		is("at once after that", "token-2", 3)
		time.Sleep(refreshPause)
		is("after a pause", "token-2", 4)
		if n := strings.Count(log.String(), "the network is down"); n != 2 {
			t.Errorf("logged %d times: %s", n, log)
		}
		time.Sleep(3 * time.Minute)
		if _, err := k.tokens.get(t.Context()); backends.ClassOf(err) != backends.Unavailable {
			t.Errorf("after its end: %v", err)
		}
		synctest.Wait()
		down = false
		is("when the network is up", "token-6", 6)
		if err := k.Close(); err != nil {
			t.Error(err)
		}
		if strings.Contains(log.String(), "token-") {
			t.Errorf("a token was logged: %s", log)
		}
	})
}
