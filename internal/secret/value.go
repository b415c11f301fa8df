package secret

import (
	"fmt"
	"log/slog"
)

// Value is a secret of any size on Go's heap: a data key on its way to its
// caller, a token. It does not print. Copies of a Value share their bytes. The
// zero Value has none.
type Value struct {
	redacted
	// A pointer, so that a Value that ends up in a %v of some struct shows an
	// address at the worst.
	bytes *[]byte
}

// NewValue returns a Value of b, which it owns from then on.
func NewValue(b []byte) Value { return Value{bytes: &b} }

// Bytes returns the secret itself, not a copy, or nil.
func (v Value) Bytes() []byte {
	if v.bytes == nil {
		return nil
	}
	return *v.bytes
}

// Len returns its size in bytes.
func (v Value) Len() int { return len(v.Bytes()) }

// Wipe overwrites the bytes with zeros, for all copies of v.
func (v Value) Wipe() { clear(v.Bytes()) }

// Redacted is what secrets print as.
const Redacted = "[redacted]"

// redacted makes what embeds it print as Redacted, with every verb of fmt, and
// in slog, JSON and text encodings.
type redacted struct{}

// Format implements fmt.Formatter, for every verb.
func (redacted) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(Redacted)) }

// String implements fmt.Stringer.
func (redacted) String() string { return Redacted }

// GoString implements fmt.GoStringer.
func (redacted) GoString() string { return Redacted }

// LogValue implements slog.LogValuer.
func (redacted) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText implements encoding.TextMarshaler.
func (redacted) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// MarshalJSON implements json.Marshaler.
func (redacted) MarshalJSON() ([]byte, error) { return []byte(`"` + Redacted + `"`), nil }
