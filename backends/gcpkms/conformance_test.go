package gcpkms_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest"
	"github.com/keybroker/keybroker/backends/gcpkms"
	"github.com/keybroker/keybroker/backends/gcpkms/gcptest"
)

// The suite that every backend passes, for each way to get a token.
func TestConformance(t *testing.T) {
	for name, file := range map[string]func(*gcptest.Server) string{
		"service_account":              (*gcptest.Server).CredentialsFile,
		"external_account":             (*gcptest.Server).FederatedFile,
		"impersonated_service_account": (*gcptest.Server).ImpersonatedFile,
	} {
		t.Run(name, func(t *testing.T) {
			backendtest.Run(t, func(t *testing.T) backendtest.Fixture {
				b := newBench(t, func(s *gcptest.Server, cfg *gcpkms.Config) { cfg.CredentialsFile = file(s) })
				set := func(t *testing.T, w backends.Wrapped, state kmspb.CryptoKeyVersion_CryptoKeyVersionState) {
					n, err := strconv.Atoi(w.Version)
					if err != nil {
						t.Fatal(err)
					}
					b.cloud.SetState(tikv, n, state)
				}
				return backendtest.Fixture{
					KMS: b.kms, Provider: gcpkms.Provider, Key: tikv, Other: other,
					Missing: gcptest.Key("missing"), MissingReference: gcptest.Key("missing"),
					Rotate:   func(*testing.T) { b.cloud.Rotate(tikv) },
					Disable:  func(t *testing.T, w backends.Wrapped) { set(t, w, kmspb.CryptoKeyVersion_DISABLED) },
					Enable:   func(t *testing.T, w backends.Wrapped) { set(t, w, kmspb.CryptoKeyVersion_ENABLED) },
					Down:     func(t *testing.T) { b.cloud.Down(t) },
					Up:       func(t *testing.T) { b.cloud.Up(t); b.reconnect(b.kms) },
					Requests: func() int { return b.cloud.Requests("") },
				}
			})
		})
	}
}

// reconnect returns when k has a connection again: gRPC tries by itself, with a
// pause after each failure.
func (b *bench) reconnect(k *gcpkms.KMS) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	for {
		err := k.Check(ctx, other)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			b.Fatalf("it does not come back: %v", err)
		}
	}
}
