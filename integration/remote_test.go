package integration_test

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"github.com/hashicorp/vault/api"
	"google.golang.org/grpc/codes"

	"github.com/keybroker/keybroker/backends/gcpkms/gcptest"
)

// remote is a KMS as the broker reaches it, through a link that can be cut, and a
// master key there.
type remote struct {
	// backend is its name in the configuration, config its line there, and key the
	// master key.
	backend, config, key string
	link                 *link
	// throttle, garble and lie have the KMS refuse calls for a while, answer what
	// no KMS does, and answer as it should but with other bytes than were wrapped.
	// False takes it back.
	throttle, garble, lie func(bool)
	// expire has its certificate be one that has ended; nil if it cannot be changed.
	// deny has it refuse, for certain, that the broker uses the master key.
	expire, deny func(bool)
	// asked counts the requests that came to the KMS.
	asked func() int
}

// recipient is the line of the configuration that names the master key.
func (r *remote) recipient() string { return fmt.Sprintf("{backend: %s, key: %q}", r.backend, r.key) }

// newVault returns Vault with a master key of its own.
func newVault(t *testing.T, v *vaultServer, key string) *remote {
	t.Helper()
	v.newKey(key, nil)
	f := newFront(t, v.Address)
	l := newLink(t, f.address)
	roleID, secretID := v.appRole()
	quota := "sys/quotas/rate-limit/" + key
	return &remote{
		backend: "vault", key: key, link: l,
		config: fmt.Sprintf("  vault: {type: vault, address: %q, id: vault-main, auth: {method: approle, role_id_file: %s, secret_id_file: %s}, tls: {ca_file: %s}}",
			"https://"+l.address(), roleID, secretID, f.caFile),
		throttle: func(on bool) {
			t.Helper()
			if !on {
				_, err := v.root.Logical().Delete(quota)
				v.must(err)
				return
			}
			v.write(quota, map[string]any{"path": "transit/decrypt/" + key, "rate": 1, "interval": "1h"})
			for { // until what the quota allows is used up
				_, err := v.root.Logical().Write("transit/decrypt/"+key, map[string]any{"ciphertext": "none"})
				var refused *api.ResponseError
				if errors.As(err, &refused) && refused.StatusCode == http.StatusTooManyRequests {
					return
				}
			}
		},
		garble: f.toggle(page),
		lie: f.toggle(func(w http.ResponseWriter, _ *http.Request) {
			writeJSON(w, "application/json", http.StatusOK, map[string]any{"data": map[string]any{"plaintext": random32()}})
		}),
		expire: f.expire,
		deny: func(on bool) {
			t.Helper()
			policy := brokerPolicy
			if on {
				policy = `path "transit/keys/*" { capabilities = ["read"] }`
			}
			v.must(v.root.Sys().PutPolicy("keybroker", policy))
		},
		asked: func() int { return len(f.asked()) },
	}
}

// newAWS returns moto as AWS KMS, with a master key of its own.
func newAWS(t *testing.T, m *moto) *remote {
	t.Helper()
	f := newFront(t, "http://"+m.address)
	l := newLink(t, f.address)
	key := m.newKey()
	const amzJSON = "application/x-amz-json-1.1"
	return &remote{
		backend: "aws", key: key, link: l,
		config: fmt.Sprintf("  aws: {type: aws-kms, region: %s, endpoint: %q, ca_file: %s}", awsRegion, "https://"+l.address(), f.caFile),
		// moto knows no quota.
		throttle: f.toggle(func(w http.ResponseWriter, _ *http.Request) {
			writeJSON(w, amzJSON, http.StatusBadRequest, map[string]any{"__type": "ThrottlingException", "message": "Rate exceeded"})
		}),
		garble: f.toggle(page),
		lie: f.toggle(func(w http.ResponseWriter, _ *http.Request) {
			writeJSON(w, amzJSON, http.StatusOK, map[string]any{"KeyId": key, "Plaintext": random32(), "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"})
		}),
		expire: f.expire,
		// moto does not refuse for each state that KMS refuses for.
		deny: f.toggle(func(w http.ResponseWriter, _ *http.Request) {
			writeJSON(w, amzJSON, http.StatusBadRequest, map[string]any{"__type": "DisabledException", "message": key + " is disabled."})
		}),
		asked: func() int { return len(f.asked()) },
	}
}

// newGoogle returns the test's Cloud KMS, with a master key of its own.
func newGoogle(t *testing.T, s *gcptest.Server) *remote {
	t.Helper()
	key := gcptest.Key("tikv")
	s.AddKey(key)
	l := newLink(t, s.Endpoint())
	fault := func(f gcptest.Fault) func(bool) {
		return func(on bool) {
			if on {
				s.Fail("Decrypt", f)
				return
			}
			s.Fail("Decrypt", nil)
		}
	}
	return &remote{
		backend: "google", key: key, link: l,
		config: fmt.Sprintf("  google: {type: gcp-kms, endpoint: %q, ca_file: %s, credentials_file: %s}", l.address(), s.CAFile(), s.CredentialsFile()),
		throttle: fault(gcptest.Refuse(codes.ResourceExhausted,
			"Quota exceeded for quota metric 'Cryptographic requests'", "RATE_LIMIT_EXCEEDED")),
		garble: fault(gcptest.Alter(func(r *kmspb.DecryptResponse) { r.Plaintext = []byte("Welcome") })),
		lie: fault(gcptest.Alter(func(r *kmspb.DecryptResponse) {
			_, _ = rand.Read(r.Plaintext)
			r.PlaintextCrc32C = gcptest.Checksum(r.Plaintext)
		})),
		deny: func(on bool) {
			state := kmspb.CryptoKeyVersion_ENABLED
			if on {
				state = kmspb.CryptoKeyVersion_DISABLED
			}
			s.SetState(key, 1, state)
		},
		asked: func() int { return s.Requests("") },
	}
}

// fault is a way for a KMS to fail.
type fault struct {
	name       string
	begin, end func(*remote)
	// alone is the reason that callers get if no other KMS is there.
	alone string
	// answers: they may also get what they asked for. A call is then answered
	// within its timeout if there is a connection, and not if one has to be made.
	answers bool
}

// faults are all that have nothing to do with the state of a master key.
var faults = []fault{
	{"connections refused", func(r *remote) { r.link.refuse() }, func(r *remote) { r.link.accept() }, "BACKEND_UNAVAILABLE", false},
	{"no answer", func(r *remote) { r.link.hang() }, func(r *remote) { r.link.clear() }, "BACKEND_UNAVAILABLE", false},
	{"throttled", func(r *remote) { r.throttle(true) }, func(r *remote) { r.throttle(false) }, "BACKEND_THROTTLED", false},
	{"garbage", func(r *remote) { r.garble(true) }, func(r *remote) { r.garble(false) }, "BACKEND_UNAVAILABLE", false},
	{"other bytes", func(r *remote) { r.lie(true) }, func(r *remote) { r.lie(false) }, "INVALID_ENVELOPE", false},
	{"2 s late", func(r *remote) { r.link.slow() }, func(r *remote) { r.link.clear() }, "BACKEND_UNAVAILABLE", true},
}

// newRemotes returns all three KMSs.
func newRemotes(t *testing.T) (vault, aws, google *remote) {
	t.Helper()
	m := startMoto(t)
	return newVault(t, startVault(t), "tikv"), newAWS(t, m), newGoogle(t, gcptest.New(t))
}

// newRemoteBroker prepares a broker with all of rs as backends.
func newRemoteBroker(t *testing.T, keys string, rs ...*remote) *broker {
	t.Helper()
	b := newBroker(t, backendsOf(rs...), keys)
	b.env = awsEnvironment()
	return b
}

func backendsOf(rs ...*remote) string {
	lines := make([]string, len(rs))
	for i, r := range rs {
		lines[i] = r.config
	}
	return strings.Join(lines, "\n")
}

// listOf is a list of recipients, as a key has it.
func listOf(rs ...*remote) string {
	lines := make([]string, len(rs))
	for i, r := range rs {
		lines[i] = r.recipient()
	}
	return "[" + strings.Join(lines, ", ") + "]"
}

// toggle returns what switches h on, and off again.
func (f *front) toggle(h http.HandlerFunc) func(bool) {
	return func(on bool) {
		if on {
			f.answer(h)
			return
		}
		f.answer(nil)
	}
}

func writeJSON(w http.ResponseWriter, contentType string, status int, body map[string]any) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that is gone needs no answer
}

// random32 is a data key that nobody has wrapped, in base64.
func random32() string {
	b := make([]byte, 32)
	_, _ = io.ReadFull(rand.Reader, b) // never fails
	return base64.StdEncoding.EncodeToString(b)
}
