package vault_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// fakeVault answers as Vault 1.21 does, as far as the backend asks. It keeps
// keys, tokens and policies, encrypts for real, and asks for permissions as Vault
// does. Each fault is a switch.
type fakeVault struct {
	mu sync.Mutex

	// What sys/health says.
	version   string
	clusterID string
	// enterprise is left out of sys/health if nil.
	enterprise *bool
	sealed     bool
	// namespaces: it serves only requests for these; nil: it ignores the header.
	namespaces []string

	mount    string
	keys     map[string]*fakeKey
	tokens   map[string]*fakeToken
	policies map[string]map[string]string // "read", "update", "create" by path
	roles    map[string]fakeRole          // by role ID + secret ID, or role + JWT
	wrapping map[string]string            // secret IDs by wrapping token
	// refusedLogin is what a refused login says.
	refusedLogin fakeAnswer

	// intercept answers in Vault's place if it is true; r's body is still there.
	intercept func(w http.ResponseWriter, r *http.Request) bool

	requests []fakeRequest
	refused  int // requests with a token that is not known or not valid any more
	number   int // of the last login
}

// fakeAnswer is an answer that is no success.
type fakeAnswer struct {
	status int
	texts  []string
}

// fakeRequest is a request as it came.
type fakeRequest struct {
	method, path string // path without /v1/
	header       http.Header
	body         map[string]any
}

func (r fakeRequest) token() string { return r.header.Get("X-Vault-Token") }

// fakeKey is a Transit key.
type fakeKey struct {
	kind                string
	derived, convergent bool
	versions            [][]byte // from 1
	minDecryption       int
	// pretend is a latest version that the key's description lags behind with;
	// 0: none.
	pretend int
}

// fakeToken is a token; the zero expires is never.
type fakeToken struct {
	policies  []string
	ttl       time.Duration
	expires   time.Time
	max       time.Time // zero: none
	renewable bool
}

// fakeRole is what a login gives.
type fakeRole struct {
	policies  []string
	ttl, max  time.Duration
	renewable bool
}

// rootToken may do everything.
const rootToken = "hvs.root-of-the-fake-vault"

func newFakeVault() *fakeVault {
	community := false
	return &fakeVault{
		version: "1.21.0", clusterID: "18f6c753-2362-e1df-7931-a9b6038af25c", enterprise: &community,
		mount: "transit",
		keys: map[string]*fakeKey{
			"tikv":    newFakeKey("aes256-gcm96"),
			"other":   newFakeKey("aes256-gcm96"),
			"derived": {kind: "aes256-gcm96", derived: true, versions: [][]byte{randomBytes(32)}, minDecryption: 1},
		},
		tokens: map[string]*fakeToken{rootToken: {policies: []string{"root"}}},
		policies: map[string]map[string]string{
			"default": {"auth/token/lookup-self": "read", "auth/token/renew-self": "update"},
			"tikv": {
				"transit/keys/tikv": "read", "transit/encrypt/tikv": "update", "transit/decrypt/tikv": "update",
				"transit/keys/gone": "read", "transit/encrypt/gone": "update create", "transit/decrypt/gone": "update",
			},
		},
		roles:        map[string]fakeRole{},
		wrapping:     map[string]string{},
		refusedLogin: fakeAnswer{http.StatusBadRequest, []string{"invalid role or secret ID"}},
	}
}

func newFakeKey(kind string) *fakeKey {
	return &fakeKey{kind: kind, versions: [][]byte{randomBytes(32)}, minDecryption: 1}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// set changes the fake while nobody is served.
func (v *fakeVault) set(change func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change()
}

// count is how many requests came for paths that begin with prefix.
func (v *fakeVault) count(prefix string) int { return len(v.received(prefix)) }

func (v *fakeVault) received(prefix string) []fakeRequest {
	v.mu.Lock()
	defer v.mu.Unlock()
	var got []fakeRequest
	for _, r := range v.requests {
		if strings.HasPrefix(r.path, prefix) {
			got = append(got, r)
		}
	}
	return got
}

// answerWith has the fake answer every request for a path that begins with prefix
// by f; nil takes that back.
func (v *fakeVault) answerWith(prefix string, f http.HandlerFunc) {
	v.set(func() {
		if f == nil {
			v.intercept = nil
			return
		}
		v.intercept = func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasPrefix(r.URL.Path, "/v1/"+prefix) {
				return false
			}
			f(w, r)
			return true
		}
	})
}

// answerJSON is an answer of Vault's own form.
func answerJSON(status int, texts ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { writeErrors(w, status, texts...) }
}

// answerText is an answer that is not Vault's.
func answerText(status int, contentType, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
}

func writeErrors(w http.ResponseWriter, status int, texts ...string) {
	if texts == nil {
		texts = []string{}
	}
	writeJSON(w, status, map[string]any{"errors": texts})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func (v *fakeVault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	fields := map[string]any{}
	if len(body) > 0 {
		_ = json.Unmarshal(body, &fields)
	}
	v.mu.Lock()
	v.requests = append(v.requests, fakeRequest{r.Method, path, r.Header.Clone(), fields})
	intercept := v.intercept
	v.mu.Unlock()
	// Not under the lock: it may hang.
	if intercept != nil && intercept(w, r) {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if path == "sys/health" {
		v.health(w, r)
		return
	}
	if v.sealed {
		writeErrors(w, http.StatusServiceUnavailable, "Vault is sealed")
		return
	}
	if ns := r.Header.Get("X-Vault-Namespace"); v.namespaces != nil && !slices.Contains(v.namespaces, ns) {
		writeErrors(w, http.StatusNotFound, fmt.Sprintf("no handler for route %q. route entry not found.", path))
		return
	}
	switch path {
	case "auth/approle/login":
		v.login(w, fields, "role_id", "secret_id")
		return
	case "auth/kubernetes/login":
		v.login(w, fields, "role", "jwt")
		return
	case "sys/wrapping/unwrap":
		token := r.Header.Get("X-Vault-Token")
		secretID, ok := v.wrapping[token]
		if !ok {
			writeErrors(w, http.StatusBadRequest, "wrapping token is not valid or does not exist")
			return
		}
		delete(v.wrapping, token)
		writeJSON(w, http.StatusOK, map[string]any{"data": map[string]any{"secret_id": secretID}})
		return
	}
	token := v.tokens[r.Header.Get("X-Vault-Token")]
	switch {
	case r.Header.Get("X-Vault-Token") == "":
		writeErrors(w, http.StatusForbidden, "permission denied")
		return
	case token == nil || !token.expires.IsZero() && !time.Now().Before(token.expires):
		v.refused++
		writeErrors(w, http.StatusForbidden, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")
		return
	}
	operation := "read"
	if r.Method != http.MethodGet {
		operation = "update"
		if name, ok := strings.CutPrefix(path, v.mount+"/encrypt/"); ok && v.keys[name] == nil {
			operation = "create"
		}
	}
	if !v.allowed(token, path, operation) {
		writeErrors(w, http.StatusForbidden, "1 error occurred:\n\t* permission denied\n\n")
		return
	}
	v.serve(w, path, token, r.Header.Get("X-Vault-Token"), fields)
}

func (v *fakeVault) allowed(t *fakeToken, path, operation string) bool {
	for _, policy := range t.policies {
		if policy == "root" || slices.Contains(strings.Fields(v.policies[policy][path]), operation) {
			return true
		}
	}
	return false
}

func (v *fakeVault) health(w http.ResponseWriter, r *http.Request) {
	status := http.StatusOK
	h := map[string]any{"initialized": true, "sealed": v.sealed, "standby": false, "version": v.version, "cluster_name": "fake"}
	if v.enterprise != nil {
		h["enterprise"] = *v.enterprise
	}
	if v.sealed {
		status, _ = strconv.Atoi(r.URL.Query().Get("sealedcode"))
	} else {
		h["cluster_id"] = v.clusterID
	}
	writeJSON(w, max(status, http.StatusOK), h)
}

func (v *fakeVault) login(w http.ResponseWriter, fields map[string]any, name, secret string) {
	role, ok := v.roles[fmt.Sprint(fields[name])+" "+fmt.Sprint(fields[secret])]
	if !ok {
		writeErrors(w, v.refusedLogin.status, v.refusedLogin.texts...)
		return
	}
	v.number++
	token := fmt.Sprintf("hvs.login-%d-of-the-fake-vault", v.number)
	t := &fakeToken{policies: append([]string{"default"}, role.policies...), ttl: role.ttl, renewable: role.renewable}
	if role.ttl > 0 {
		t.expires = time.Now().Add(role.ttl)
	}
	if role.max > 0 {
		t.max = time.Now().Add(role.max)
	}
	v.tokens[token] = t
	v.writeAuth(w, token, t)
}

// writeAuth answers a login or a renewal.
func (v *fakeVault) writeAuth(w http.ResponseWriter, token string, t *fakeToken) {
	writeJSON(w, http.StatusOK, map[string]any{"data": nil, "warnings": nil, "auth": map[string]any{
		"client_token": token, "lease_duration": seconds(t.expires), "renewable": t.renewable,
		"policies": t.policies, "mfa_requirement": nil,
	}})
}

// seconds is how long it is until then.
func seconds(then time.Time) int {
	if then.IsZero() {
		return 0
	}
	return int(time.Until(then).Round(time.Second) / time.Second)
}

func (v *fakeVault) serve(w http.ResponseWriter, path string, t *fakeToken, token string, fields map[string]any) {
	switch path {
	case "auth/token/lookup-self":
		data := map[string]any{"id": token, "ttl": seconds(t.expires), "expire_time": nil, "renewable": t.renewable}
		if !t.expires.IsZero() {
			data["expire_time"] = t.expires.UTC().Format(time.RFC3339Nano)
		}
		writeJSON(w, http.StatusOK, map[string]any{"data": data})
		return
	case "auth/token/renew-self":
		if !t.renewable {
			writeErrors(w, http.StatusBadRequest, "lease is not renewable")
			return
		}
		t.expires = time.Now().Add(t.ttl)
		if !t.max.IsZero() && t.expires.After(t.max) {
			t.expires = t.max
		}
		v.writeAuth(w, token, t)
		return
	}
	rest, ok := strings.CutPrefix(path, v.mount+"/")
	call, name, _ := strings.Cut(rest, "/")
	if !ok || call != "keys" && call != "encrypt" && call != "decrypt" {
		writeErrors(w, http.StatusNotFound, fmt.Sprintf("no handler for route %q. route entry not found.", path))
		return
	}
	key := v.keys[name]
	switch {
	case key == nil && call == "keys":
		writeErrors(w, http.StatusNotFound)
	case key == nil && call == "encrypt":
		key = newFakeKey("aes256-gcm96")
		v.keys[name] = key
		key.encrypt(w, fields)
	case key == nil:
		writeErrors(w, http.StatusBadRequest, "encryption key not found")
	case call == "keys":
		key.describe(w, name)
	case call == "encrypt":
		key.encrypt(w, fields)
	default:
		key.decrypt(w, fields)
	}
}

func (k *fakeKey) describe(w http.ResponseWriter, name string) {
	latest := len(k.versions)
	if k.pretend > 0 {
		latest = k.pretend
	}
	encrypts := !strings.HasPrefix(k.kind, "ecdsa") && k.kind != "ed25519" && k.kind != "hmac"
	data := map[string]any{
		"name": name, "type": k.kind, "derived": k.derived, "latest_version": latest,
		"min_decryption_version": min(k.minDecryption, latest), "supports_encryption": encrypts, "supports_decryption": encrypts,
	}
	if k.derived {
		data["convergent_encryption"] = k.convergent
	}
	writeJSON(w, http.StatusOK, map[string]any{"data": data, "warnings": nil})
}

// aead is the cipher of one version, for a context.
func (k *fakeKey) aead(version int, context []byte) cipher.AEAD {
	key := k.versions[version-1]
	if k.derived {
		key, _ = hkdf.Key(sha256.New, key, nil, string(context), 32)
	}
	block, _ := aes.NewCipher(key)
	aead, _ := cipher.NewGCMWithRandomNonce(block)
	return aead
}

// binding reads context and associated data. Like Vault, it ignores a context
// that the key has no use for. The answer is written if it is false.
func (k *fakeKey) binding(w http.ResponseWriter, fields map[string]any) (context, associated []byte, ok bool) {
	context, err := base64.StdEncoding.DecodeString(text(fields, "context"))
	if err != nil {
		writeErrors(w, http.StatusBadRequest, err.Error())
		return nil, nil, false
	}
	if k.derived && len(context) == 0 {
		writeErrors(w, http.StatusBadRequest, "missing 'context' for key derivation; the key was created using a derived key, which means additional, per-request information must be included in order to perform operations with the key")
		return nil, nil, false
	}
	associated, err = base64.StdEncoding.DecodeString(text(fields, "associated_data"))
	if err != nil {
		writeErrors(w, http.StatusInternalServerError, "1 error occurred:\n\t* unable to get associated_data/additional_data from factory[0]: illegal base64 data at input byte 0\n\n")
		return nil, nil, false
	}
	return context, associated, true
}

func text(fields map[string]any, name string) string {
	s, _ := fields[name].(string)
	return s
}

// warnings are those that Vault gives for parameters that it does not know.
func warnings(fields map[string]any, known ...string) []string {
	var unknown []string
	for name := range fields {
		if !slices.Contains(known, name) {
			unknown = append(unknown, name)
		}
	}
	if unknown == nil {
		return nil
	}
	return []string{fmt.Sprintf("Endpoint ignored these unrecognized parameters: %v", unknown)}
}

func (k *fakeKey) encrypt(w http.ResponseWriter, fields map[string]any) {
	context, associated, ok := k.binding(w, fields)
	if !ok {
		return
	}
	plaintext, err := base64.StdEncoding.DecodeString(text(fields, "plaintext"))
	if err != nil {
		writeErrors(w, http.StatusBadRequest, err.Error())
		return
	}
	latest := len(k.versions)
	sealed := k.aead(latest, context).Seal(nil, nil, plaintext, associated)
	writeJSON(w, http.StatusOK, map[string]any{
		"data":     map[string]any{"ciphertext": fmt.Sprintf("vault:v%d:%s", latest, base64.StdEncoding.EncodeToString(sealed)), "key_version": latest},
		"warnings": warnings(fields, "plaintext", "context", "associated_data"),
	})
}

func (k *fakeKey) decrypt(w http.ResponseWriter, fields map[string]any) {
	context, associated, ok := k.binding(w, fields)
	if !ok {
		return
	}
	refuse := func(text string) { writeErrors(w, http.StatusBadRequest, text) }
	rest, ok := strings.CutPrefix(text(fields, "ciphertext"), "vault:v")
	number, encoded, ok2 := strings.Cut(rest, ":")
	version, err := strconv.Atoi(number)
	if !ok || !ok2 || err != nil {
		refuse("invalid ciphertext: no prefix")
		return
	}
	switch {
	case version > len(k.versions):
		refuse("invalid ciphertext: version is too new")
		return
	case version < k.minDecryption:
		refuse("ciphertext or signature version is disallowed by policy (too old)")
		return
	}
	sealed, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		refuse("invalid ciphertext: could not decode base64")
		return
	}
	plaintext, err := k.aead(version, context).Open(nil, nil, sealed, associated)
	if err != nil {
		refuse("cipher: message authentication failed")
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"data":     map[string]any{"plaintext": base64.StdEncoding.EncodeToString(plaintext)},
		"warnings": warnings(fields, "ciphertext", "context", "associated_data"),
	})
}

// network carries requests to a fake without sockets, as tests of time need it.
// It takes no time.
type network struct{ vault *fakeVault }

func (n network) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := &answerWriter{header: http.Header{}, status: http.StatusOK}
	if r.Body != nil {
		defer func() { _ = r.Body.Close() }()
	} else {
		r = r.Clone(r.Context())
		r.Body = http.NoBody
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	n.vault.ServeHTTP(answer, r)
	// What an interceptor that waits for the request's end leaves is no answer.
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: answer.status, Header: answer.header, Request: r,
		Body: io.NopCloser(strings.NewReader(answer.body.String())), ProtoMajor: 1, ProtoMinor: 1,
	}, nil
}

type answerWriter struct {
	header http.Header
	status int
	body   strings.Builder
}

func (a *answerWriter) Header() http.Header         { return a.header }
func (a *answerWriter) WriteHeader(status int)      { a.status = status }
func (a *answerWriter) Write(b []byte) (int, error) { return a.body.Write(b) }

// hang answers nothing until the caller gives up.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
