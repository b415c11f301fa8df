package gcpkms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/auth/credentials"
	"cloud.google.com/go/auth/credentials/impersonate"
	"cloud.google.com/go/auth/httptransport"
	"cloud.google.com/go/compute/metadata"

	"github.com/keybroker/keybroker/backends"
)

// scope is what tokens are for. What they may do is IAM's to say.
const scope = "https://www.googleapis.com/auth/cloud-platform"

// identity is a token, and what goes with it.
type identity struct {
	token        *auth.Token
	universe     string // the domain of the cloud that it is of
	quotaProject string // that of the environment or the file; "" for none
	refresh      time.Time
}

// fetch looks for credentials and gets a token with them.
func (t *tokens) fetch(ctx context.Context) (*identity, error) {
	creds, err := t.detect(ctx)
	if err != nil {
		return nil, err
	}
	id := &identity{}
	// Of the environment, or of the file that has just been read.
	if id.quotaProject, err = creds.QuotaProjectID(ctx); err != nil {
		return nil, err
	}
	if t.cfg.Impersonate != "" {
		if creds, err = t.impersonated(creds); err != nil {
			return nil, err
		}
	}
	if id.token, err = creds.Token(ctx); err != nil {
		return nil, err
	}
	if id.token == nil || id.token.Value == "" {
		return nil, errors.New("the token is empty")
	}
	if id.token.MetadataString("auth.google.tokenSource") != "compute-metadata" { // which the client library does not ask for it either
		id.universe, err = creds.UniverseDomain(ctx)
	}
	return id, err
}

// options is for a detection. Nothing is refreshed on its own, and nothing is
// logged: the library's debug log, which the environment could turn on, holds
// tokens.
func (t *tokens) options() *credentials.DetectOptions {
	return &credentials.DetectOptions{
		Scopes:              []string{scope},
		UseSelfSignedJWT:    true,
		DisableAsyncRefresh: true,
		Client:              t.client,
		Logger:              slog.New(slog.DiscardHandler),
	}
}

// detect returns the credentials of the file that the configuration names, or
// those that Google's libraries would find, in their order.
func (t *tokens) detect(ctx context.Context) (*auth.Credentials, error) {
	path, named := t.cfg.CredentialsFile, "credentials_file"
	if path == "" {
		path, named = os.Getenv("GOOGLE_APPLICATION_CREDENTIALS"), "GOOGLE_APPLICATION_CREDENTIALS"
	}
	if path != "" {
		creds, err := t.fromFile(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", named, err)
		}
		return creds, nil
	}
	if path = gcloudFile(); path != "" {
		if _, err := os.Stat(path); err == nil {
			return t.fromFile(path)
		}
	}
	// The library asks once in a process whether there is a metadata server, so
	// that one that comes later, as on a new node, would never be found. And it
	// asks beyond every deadline.
	client := metadata.NewClient(t.client)
	if !client.OnGCEWithContext(ctx) {
		return nil, backends.Fail(backends.Unavailable, "no credentials: neither credentials_file nor GOOGLE_APPLICATION_CREDENTIALS is set, gcloud has left no file, and no metadata server answers")
	}
	return auth.NewCredentials(&auth.CredentialsOptions{TokenProvider: metadataServer{client}}), nil
}

// gcloudFile is where "gcloud auth application-default login" leaves a file.
func gcloudFile() string {
	const name = "application_default_credentials.json"
	if runtime.GOOS == "windows" {
		return filepath.Join(os.Getenv("APPDATA"), "gcloud", name)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".config", "gcloud", name)
}

// fromFile reads a file of credentials, of whatever type it says it is: it is the
// operator's own.
func (t *tokens) fromFile(path string) (*auth.Credentials, error) {
	content, err := os.ReadFile(path) //nolint:gosec // the environment is the operator's, as the configuration is
	if err != nil {
		return nil, err
	}
	defer clear(content)
	var file struct {
		Type credentials.CredType `json:"type"`
	}
	if err := json.Unmarshal(content, &file); err != nil {
		return nil, fmt.Errorf("%s holds no JSON", path) // what is wrong would quote it
	}
	switch file.Type {
	case credentials.ServiceAccount, credentials.AuthorizedUser, credentials.ExternalAccount,
		credentials.ImpersonatedServiceAccount, credentials.GDCHServiceAccount, credentials.ExternalAccountAuthorizedUser:
	case "":
		return nil, fmt.Errorf("%s has no \"type\": it is no file of Google credentials", path)
	default:
		return nil, fmt.Errorf("%s has the type %q, which is none of service_account, authorized_user, external_account, external_account_authorized_user, impersonated_service_account, gdch_service_account", path, shown(string(file.Type)))
	}
	// The library keeps what it is given.
	creds, err := credentials.NewCredentialsFromJSON(file.Type, append([]byte(nil), content...), t.options())
	if err != nil {
		return nil, fmt.Errorf("%s, of type %s, cannot be used; make a new one", path, file.Type) // what is wrong may quote a key
	}
	return creds, nil
}

// impersonated returns credentials for the account that is to be acted as.
func (t *tokens) impersonated(base *auth.Credentials) (*auth.Credentials, error) {
	client, err := httptransport.NewClient(&httptransport.Options{
		Credentials:      base,
		BaseRoundTripper: t.client.Transport,
		DisableTelemetry: true,
		Logger:           slog.New(slog.DiscardHandler),
		InternalOptions:  &httptransport.InternalOptions{SkipUniverseDomainValidation: true},
	})
	if err != nil {
		return nil, err
	}
	client.Timeout = t.client.Timeout
	return impersonate.NewCredentials(&impersonate.CredentialsOptions{
		TargetPrincipal: t.cfg.Impersonate,
		Scopes:          []string{scope},
		// Google's usual time, given so that the library refreshes nothing.
		Lifetime:    time.Hour,
		Credentials: base,
		Client:      client,
		Logger:      slog.New(slog.DiscardHandler),
	})
}

// metadataServer gives the tokens of the service account that a VM or a Pod has.
type metadataServer struct{ client *metadata.Client }

// Token implements auth.TokenProvider.
func (m metadataServer) Token(ctx context.Context) (*auth.Token, error) {
	text, err := m.client.GetWithContext(ctx, "instance/service-accounts/default/token?scopes="+url.QueryEscape(scope))
	if err != nil {
		return nil, err
	}
	var got struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
		TokenType   string `json:"token_type"`
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil || got.AccessToken == "" || got.ExpiresIn <= 0 {
		return nil, errors.New("the metadata server's answer is no token")
	}
	return &auth.Token{
		Value: got.AccessToken, Type: got.TokenType, Expiry: time.Now().Add(time.Duration(got.ExpiresIn) * time.Second),
		Metadata: map[string]any{"auth.google.tokenSource": "compute-metadata"},
	}, nil
}
