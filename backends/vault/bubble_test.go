package vault_test

import (
	"crypto/fips140"
	"testing"
	"testing/synctest"
)

// bubble is synctest.Test. The FIPS module's entropy comes from how long things
// take, and in a bubble nothing takes any time: when the module wants more of it
// there, it ends the process.
func bubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	if fips140.Enabled() {
		t.Skip("GODEBUG=fips140: crypto/rand cannot gather entropy in a synctest bubble")
	}
	synctest.Test(t, f)
}
