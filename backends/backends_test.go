package backends_test

import (
	"testing"

	"github.com/keybroker/keybroker/backends"
)

// The numbers stand in envelopes, and the words in what people read of them.
func TestBindings(t *testing.T) {
	for b, want := range map[backends.Binding]string{
		1:   "aad",
		2:   "derived",
		3:   "hash",
		0:   "binding(0)",
		4:   "binding(4)",
		255: "binding(255)",
	} {
		if got := b.String(); got != want {
			t.Errorf("Binding %d is %q, want %q", uint8(b), got, want)
		}
	}
	if backends.BindingAAD != 1 || backends.BindingDerived != 2 || backends.BindingHash != 3 {
		t.Error("a binding has changed its number")
	}
}
