//go:build goexperiment.runtimesecret && linux && (amd64 || arm64)

package envelope

import (
	"runtime/secret"
	"testing"
)

func TestShieldRunsUnderRuntimeSecret(t *testing.T) {
	inside := false
	shield(func() { inside = secret.Enabled() })
	if !inside || secret.Enabled() {
		t.Errorf("runtime/secret is on inside: %t, outside: %t", inside, secret.Enabled())
	}
}
