package gcptest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// Whom tokens are for.
const (
	// ServiceAccount is whose key CredentialsFile holds.
	ServiceAccount = "keybroker@gcptest.iam.gserviceaccount.com"
	// FederatedAccount is who FederatedFile is.
	FederatedAccount = "principal://federated"
	// ImpersonatedAccount is the only account that can be impersonated, by
	// ServiceAccount.
	ImpersonatedAccount = "tikv@gcptest.iam.gserviceaccount.com"
	// MetadataAccount is who the metadata server's tokens are for.
	MetadataAccount = "node@gcptest.iam.gserviceaccount.com"

	subjectToken = "subject-token-of-the-test"
	keyID        = "key-1"
)

// tokenServer gives tokens, in the ways of oauth2.googleapis.com,
// sts.googleapis.com, iamcredentials.googleapis.com and the metadata server.
type tokenServer struct {
	*httptest.Server
	key *rsa.PrivateKey

	mu       sync.Mutex
	issued   map[string]string // who a token is for
	disabled bool              // no token signed by key serves
	lifetime time.Duration
	fault    http.HandlerFunc
	requests int
}

func newTokenServer(tb testing.TB) *tokenServer {
	tb.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		tb.Fatal(err)
	}
	t := &tokenServer{key: key, issued: map[string]string{}, lifetime: time.Hour}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /sts", t.exchange)
	mux.HandleFunc("POST /v1/projects/-/serviceAccounts/{account}", t.impersonate)
	mux.HandleFunc("GET /computeMetadata/v1/instance/service-accounts/default/token", t.metadata)
	t.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.mu.Lock()
		t.requests++
		fault := t.fault
		t.mu.Unlock()
		if fault != nil {
			fault(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	tb.Cleanup(t.Close)
	return t
}

func (t *tokenServer) host() string { return strings.TrimPrefix(t.URL, "http://") }

// FailTokens lets h answer whatever the token and metadata server is asked, until
// FailTokens is called with nil.
func (s *Server) FailTokens(h http.HandlerFunc) {
	s.tokens.mu.Lock()
	defer s.tokens.mu.Unlock()
	s.tokens.fault = h
}

// TokenRequests counts what the token and metadata server was asked.
func (s *Server) TokenRequests() int {
	s.tokens.mu.Lock()
	defer s.tokens.mu.Unlock()
	return s.tokens.requests
}

// TokenURL is where the token server is: for sts.googleapis.com at /sts, for
// iamcredentials.googleapis.com at /v1/projects.
func (s *Server) TokenURL() string { return s.tokens.URL }

// SetLifetime sets how long tokens last that are issued from now on.
func (s *Server) SetLifetime(d time.Duration) {
	s.tokens.mu.Lock()
	defer s.tokens.mu.Unlock()
	s.tokens.lifetime = d
}

// RevokeTokens takes every token back that was issued so far.
func (s *Server) RevokeTokens() {
	s.tokens.mu.Lock()
	defer s.tokens.mu.Unlock()
	clear(s.tokens.issued)
}

// DisableAccount makes ServiceAccount's key useless, or useful again.
func (s *Server) DisableAccount(disabled bool) {
	s.tokens.mu.Lock()
	defer s.tokens.mu.Unlock()
	s.tokens.disabled = disabled
}

// issue returns a new token for somebody.
func (t *tokenServer) issue(principal string) (token string, lifetime time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	token = "ya29." + rand.Text()
	t.issued[token] = principal
	return token, t.lifetime
}

// principal is who a token is for, or "" if it is not valid.
func (t *tokenServer) principal(token string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if who, ok := t.issued[token]; ok {
		return who
	}
	if !t.disabled && t.signed(token) {
		return ServiceAccount
	}
	return ""
}

// signed tells whether token is a JWT that ServiceAccount's key has signed, for
// the scope of the cloud, and that has not ended.
func (t *tokenServer) signed(token string) bool {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return false
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return false
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if rsa.VerifyPKCS1v15(&t.key.PublicKey, crypto.SHA256, sum[:], signature) != nil {
		return false
	}
	var claims struct {
		Iss, Sub, Scope string
		Exp             int64
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(body, &claims) != nil {
		return false
	}
	return claims.Iss == ServiceAccount && claims.Sub == ServiceAccount &&
		claims.Scope == "https://www.googleapis.com/auth/cloud-platform" && time.Now().Before(time.Unix(claims.Exp, 0))
}

func (t *tokenServer) exchange(w http.ResponseWriter, r *http.Request) {
	if r.FormValue("grant_type") != "urn:ietf:params:oauth:grant-type:token-exchange" || r.FormValue("subject_token") != subjectToken {
		answer(w, http.StatusBadRequest, map[string]any{"error": "invalid_grant", "error_description": "The subject token " + r.FormValue("subject_token") + " is not valid."})
		return
	}
	token, lifetime := t.issue(FederatedAccount)
	answer(w, http.StatusOK, map[string]any{ //nolint:gosec // made for this test
		"access_token": token, "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
		"token_type": "Bearer", "expires_in": int(lifetime.Seconds()),
	})
}

func (t *tokenServer) impersonate(w http.ResponseWriter, r *http.Request) {
	bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	account, ok := strings.CutSuffix(r.PathValue("account"), ":generateAccessToken")
	if !ok || account != ImpersonatedAccount || t.principal(bearer) != ServiceAccount {
		answer(w, http.StatusForbidden, map[string]any{"error": map[string]any{
			"code": 403, "message": "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).", "status": "PERMISSION_DENIED",
		}})
		return
	}
	token, lifetime := t.issue(ImpersonatedAccount)
	answer(w, http.StatusOK, map[string]any{"accessToken": token, "expireTime": time.Now().Add(lifetime).UTC().Format(time.RFC3339)})
}

func (t *tokenServer) metadata(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Metadata-Flavor", "Google")
	if r.Header.Get("Metadata-Flavor") != "Google" {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	token, lifetime := t.issue(MetadataAccount)
	answer(w, http.StatusOK, map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": int(lifetime.Seconds())})
}

func answer(w http.ResponseWriter, code int, body map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // a client that is gone needs no answer
}

// The files of credentials, as Google makes them.

func (t *tokenServer) serviceAccount() []byte {
	der, err := x509.MarshalPKCS8PrivateKey(t.key)
	if err != nil {
		panic(err)
	}
	return file(map[string]any{
		"type": "service_account", "project_id": "gcptest", "private_key_id": keyID,
		"private_key":  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		"client_email": ServiceAccount, "client_id": "1", "token_uri": t.URL + "/token", "universe_domain": "googleapis.com",
	})
}

func (t *tokenServer) externalAccount(subjectTokenFile string) []byte {
	return file(map[string]any{ //nolint:gosec // there is no secret in it
		"type": "external_account", "universe_domain": "googleapis.com", "quota_project_id": "quota-of-the-file",
		"audience":           "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/provider",
		"subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "token_url": t.URL + "/sts",
		"credential_source": map[string]any{"file": subjectTokenFile},
	})
}

func (t *tokenServer) impersonated() []byte {
	return file(map[string]any{
		"type": "impersonated_service_account", "source_credentials": json.RawMessage(t.serviceAccount()),
		"service_account_impersonation_url": t.URL + "/v1/projects/-/serviceAccounts/" + ImpersonatedAccount + ":generateAccessToken",
	})
}

func file(content map[string]any) []byte {
	b, err := json.MarshalIndent(content, "", "  ")
	if err != nil {
		panic(err)
	}
	return append(b, '\n')
}
