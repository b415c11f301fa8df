package vault

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/http"

	"github.com/keybroker/keybroker/backends"
)

// appRoleMethod logs in with a role ID and a secret ID.
type appRoleMethod struct {
	client                   *client
	mount                    string
	roleIDFile, secretIDFile string
	// wrapped: the secret ID's file holds a wrapping token, which can be used
	// once. What it gave is kept for later logins.
	wrapped  bool
	wrapping [sha256.Size]byte // of the wrapping token that gave secretID
	secretID string
}

func (m *appRoleMethod) files() []string { return []string{m.roleIDFile, m.secretIDFile} }

func (m *appRoleMethod) fixed() bool { return false }

func (m *appRoleMethod) login(ctx context.Context) (grant, error) {
	roleID, err := readSecret(m.roleIDFile)
	if err != nil {
		return grant{}, err
	}
	content, err := readSecret(m.secretIDFile)
	if err != nil {
		return grant{}, err
	}
	secretID := string(content)
	if m.wrapped {
		if err := m.unwrap(ctx, content); err != nil {
			return grant{}, err
		}
		secretID = m.secretID
	}
	return m.client.login(ctx, m.mount, map[string]string{"role_id": string(roleID), "secret_id": secretID},
		"the role ID in "+m.roleIDFile+" with the secret ID in "+m.secretIDFile)
}

// unwrap fetches the secret ID that a wrapping token stands for, unless that has
// been done.
func (m *appRoleMethod) unwrap(ctx context.Context, token []byte) error {
	sum := sha256.Sum256(token)
	if m.secretID != "" && sum == m.wrapping {
		return nil
	}
	body, err := m.client.do(ctx, request{method: http.MethodPut, path: "sys/wrapping/unwrap", token: string(token), body: []byte("{}")})
	if err != nil {
		return refusedLogin(err, "the wrapping token in "+m.secretIDFile+", which works once and for a limited time: if the broker has not used it, somebody else may have; put a new one there")
	}
	defer clear(body)
	var reply struct {
		Data struct {
			SecretID string `json:"secret_id"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &reply); err != nil || !isPlain([]byte(reply.Data.SecretID)) {
		return backends.Fail(backends.Unauthenticated, "the wrapping token in %s does not wrap a secret ID of AppRole", m.secretIDFile)
	}
	m.wrapping, m.secretID = sum, reply.Data.SecretID
	return nil
}

// login logs in at an auth method. The fields are secret; what names them for
// errors.
func (c *client) login(ctx context.Context, mount string, fields map[string]string, what string) (grant, error) {
	r := request{method: http.MethodPut, path: "auth/" + mount + "/login"}
	for _, value := range fields {
		r.secrets = append(r.secrets, []byte(value))
	}
	var err error
	if r.body, err = json.Marshal(fields); err != nil {
		return grant{}, backends.Fail(backends.Internal, "the login cannot be encoded")
	}
	defer clear(r.body)
	body, err := c.do(ctx, r)
	if err != nil {
		return grant{}, refusedLogin(err, what)
	}
	return parseGrant(body)
}
