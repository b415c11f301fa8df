package vault_test

import (
	"os"
	"os/exec"
	"testing"
)

// childVariable marks a process that inChild has started.
const childVariable = "KEYBROKER_TEST_CHILD"

// inChild runs the test that calls it once more, in a process of its own with
// the given environment, and fails it if it fails there. In that process it does
// nothing.
func inChild(t *testing.T, environment ...string) {
	t.Helper()
	if os.Getenv(childVariable) != "" {
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$", "-test.timeout=1m")
	cmd.Env = append(append(os.Environ(), childVariable+"=1"), environment...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
