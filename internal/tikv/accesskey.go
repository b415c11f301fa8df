package tikv

import (
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"io"
	"strings"

	"github.com/keybroker/keybroker/internal/secret"
)

// AccessKey is what a store signs its requests with: made by the broker, worth
// nothing elsewhere.
type AccessKey struct {
	// ID names it: KB and 18 of A-Z and 2-7. No cloud's key begins like that.
	ID string
	// Secret is 43 characters of the URL's base64 alphabet, 32 random bytes.
	Secret secret.Value
}

// NewAccessKey makes one. The error is that of random.
func NewAccessKey(random io.Reader) (AccessKey, error) {
	const idBytes, idLength, secretBytes = 12, 18, 32 // 18 characters of 5 bits
	b := make([]byte, idBytes+secretBytes)
	defer clear(b)
	if _, err := io.ReadFull(random, b); err != nil {
		return AccessKey{}, fmt.Errorf("making an access key: %w", err)
	}
	id := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:idBytes])[:idLength]
	key := make([]byte, base64.RawURLEncoding.EncodedLen(secretBytes))
	base64.RawURLEncoding.Encode(key, b[idBytes:])
	return AccessKey{ID: "KB" + id, Secret: secret.NewValue(key)}, nil
}

// isCloudKey tells whether id is an access key of an AWS account (IAM, "Unique
// identifiers": AKIA for a user's, ASIA for temporary ones).
func isCloudKey(id string) bool {
	return strings.HasPrefix(id, "AKIA") || strings.HasPrefix(id, "ASIA")
}

// ClientLines returns the lines of the broker's configuration for a client with
// this access key. User is a name or a uid; key is what it may generate and unwrap
// with.
func ClientLines(name, accessKeyID, secretFile, user, key string) string {
	by := "user: " + quoted(user)
	if user != "" && strings.Trim(user, "0123456789") == "" {
		by = "uid: " + user
	}
	return fmt.Sprintf(`clients:
  %s:
    match: {aws: {access_key_id: %s, secret_key_file: %s, %s}}
    allow: [{keys: [%s], operations: [generate, unwrap]}]
`, quoted(name), accessKeyID, quoted(secretFile), by, quoted(key))
}
