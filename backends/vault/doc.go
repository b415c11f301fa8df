// Package vault is a KMS whose master keys are keys of a Transit engine of
// HashiCorp Vault or OpenBao.
//
// # What it asks of Vault
//
// Keys are wrapped by encrypt and unwrapped by decrypt, never by datakey, which
// drops associated data without an error. How a wrap is bound follows from the
// key: a derived key binds by its context, SHA-256 of the associated data, and
// nothing else; other keys bind by associated data, or, on a Vault before 1.13,
// by a hash beside the plaintext. Only symmetric authenticated ciphers serve.
// RSA keys do not, since whoever reads the public key could make wrapped keys of
// his own, nor convergent keys, whose ciphertexts show which keys are equal.
//
// The policy that the broker needs, for each key:
//
//	path "transit/keys/tikv"    { capabilities = ["read"] }
//	path "transit/encrypt/tikv" { capabilities = ["update"] }
//	path "transit/decrypt/tikv" { capabilities = ["update"] }
//
// It should not have create: Vault then answers an encrypt under a key that does
// not exist by making the key. This package reads the key before, and refuses if
// it is not there; between the two somebody could still delete it. For keys that
// are only unwrapped, encrypt can be left out. Vault's policy "default" lets the
// broker look at its token and renew it. sys/health must be within reach; no
// token is sent there.
//
// A wrap costs two requests, or one within seconds of another under the same key;
// an unwrap one, and another every few minutes; a check one. A login costs two or
// three.
//
// # References and ciphertexts
//
// A reference is ID/NAMESPACE/MOUNT/KEY, with the slashes inside NAMESPACE and
// MOUNT written %2F, and NAMESPACE empty for the root: "prod-vault/team%2Fdb/transit/tikv",
// "18f6c753-2362-e1df-7931-a9b6038af25c//transit/tikv". ID is from the
// configuration, or else Vault's cluster_id; a replicated Vault has another one
// on each cluster and needs the former.
//
// A ciphertext is Vault's text, "vault:vN:" and base64 with padding, byte for
// byte. Text in any other form is refused before it is sent, and so is one whose N
// is not the version that stands beside it.
//
// # Namespaces
//
// A Vault without namespaces ignores the header that names one, and serves the
// root. So if a namespace is configured, nothing but sys/health is sent to a
// server that does not say there that it has them: Vault Enterprise, or OpenBao
// since 2.3. An OpenBao whose version is hidden cannot say so, and is refused too.
//
// # Tokens
//
// The token is had by a login (AppRole, Kubernetes) or from a file. It is renewed
// in the background after two thirds of its time, and replaced before it ends. A
// token that Vault does not know any more is replaced once, and the call made
// again. A denial is confirmed with a new login, at most twice a minute, since a
// policy is attached to a token when it is made. Tokens that are not needed any
// more are left to expire: give the role a short token_ttl.
//
// # Network
//
// Only the configuration counts, not VAULT_* variables nor proxies of the
// environment. Redirects are not followed, so the address must be that of nodes
// that serve or forward. Nothing is retried here, but for the one new login.
//
// # Copies of key bytes
//
// Requests and answers that hold key bytes are made and read as byte slices and
// wiped; no string of them comes into being. What cannot be wiped are the buffers
// of the HTTP and TLS connections, where what was last written and read stays, in
// base64. Measured over TLS: two such copies for each connection, after one call as
// after thousands, and none of the key bytes themselves. A connection ends after
// half a minute without a call; then its buffers are garbage. Tokens and
// credentials are strings, of which the client library makes further ones.
package vault
