package vault

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// tokenMethod takes the token from a file that somebody else keeps up to date.
type tokenMethod struct {
	client *client
	file   string
}

func (m *tokenMethod) files() []string { return []string{m.file} }

func (m *tokenMethod) fixed() bool { return true }

// login reads the file and asks Vault about the token. A policy that forbids that
// question does not forbid the token.
func (m *tokenMethod) login(ctx context.Context) (grant, error) {
	token, err := readSecret(m.file)
	if err != nil {
		return grant{}, err
	}
	g, err := m.client.lookup(ctx, string(token))
	if backends.ClassOf(err) == backends.Denied {
		return grant{token: string(token)}, nil
	}
	if err != nil {
		return grant{}, refusedLogin(err, "the token in "+m.file)
	}
	return g, nil
}

// lookup asks Vault about a token. It fails with Denied if the token may not ask,
// and with Unauthenticated if Vault does not know it.
func (c *client) lookup(ctx context.Context, token string) (grant, error) {
	body, err := c.do(ctx, request{method: http.MethodGet, path: "auth/token/lookup-self", token: token})
	if err != nil {
		return grant{}, err
	}
	defer clear(body) // the token is in it
	var reply struct {
		Data *struct {
			TTL       int64   `json:"ttl"` // seconds
			Expires   *string `json:"expire_time"`
			Renewable bool    `json:"renewable"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &reply); err != nil || reply.Data == nil || reply.Data.TTL < 0 || reply.Data.TTL > maxTTL {
		return grant{}, backends.Fail(backends.Internal, "Vault does not describe the token that was asked for")
	}
	d := reply.Data
	if d.TTL == 0 && d.Expires != nil {
		return grant{}, backends.Fail(backends.Unauthenticated, "the token expires now")
	}
	return grant{token: token, ttl: time.Duration(d.TTL) * time.Second, renewable: d.Renewable}, nil
}
