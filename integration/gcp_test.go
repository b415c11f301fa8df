package integration_test

import (
	"fmt"
	"testing"

	"github.com/keybroker/keybroker/backends/gcpkms/gcptest"
)

// TestGoogleBroker goes the main way with a key of Cloud KMS, with each file of
// credentials whose tokens the test's own servers give or check.
func TestGoogleBroker(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		file      func(*gcptest.Server) string
		principal string
	}{
		"service account":  {(*gcptest.Server).CredentialsFile, gcptest.ServiceAccount},
		"external account": {(*gcptest.Server).FederatedFile, gcptest.FederatedAccount},
		"impersonated":     {(*gcptest.Server).ImpersonatedFile, gcptest.ImpersonatedAccount},
	} {
		t.Run(name, func(t *testing.T) {
			s := gcptest.New(t)
			s.AddKey(gcptest.Key("tikv"))
			b := newBroker(t, fmt.Sprintf("  google: {type: gcp-kms, endpoint: %q, ca_file: %s, credentials_file: %s}", s.Endpoint(), s.CAFile(), test.file(s)),
				fmt.Sprintf("  main: {recipients: [{backend: google, key: %s}]}", gcptest.Key("tikv")))
			b.start()
			old := b.generate("main")
			b.mustUnwrap(old, fromCache)
			s.Rotate(gcptest.Key("tikv"))
			b.purge()
			b.mustUnwrap(old, fromBackend)
			b.purge()
			b.mustUnwrap(b.generate("main"), fromCache)
			for _, r := range s.Received() {
				if r.Principal != test.principal {
					t.Fatalf("%s came as %s, not as %s", r.Method, r.Principal, test.principal)
				}
			}
			if s.Requests("Decrypt") < 3 { // one proves each intermediate key, one opens the old one
				t.Errorf("%d calls of Decrypt: the test's server was not what was asked", s.Requests("Decrypt"))
			}
		})
	}
}
