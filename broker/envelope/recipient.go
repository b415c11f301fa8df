package envelope

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"

	"github.com/keybroker/keybroker/backends"
)

// Recipient is one master key (KEK) that wraps the intermediate key, and that
// wrap. What a parsed envelope says of its recipients is a claim until the
// commitment has been verified; even then it only selects among the recipients
// that the configuration lists.
type Recipient struct {
	// Provider is the kind of KMS: 1 to MaxProvider bytes of [a-z0-9-].
	Provider string
	// Reference is what the master key physically is, never an alias: 1 to
	// MaxReference bytes of valid UTF-8.
	Reference string
	// Version is the master key version that made the wrap: at most MaxVersion
	// bytes of valid UTF-8, empty if the KMS does not tell.
	Version string
	// Binding says how the wrap is tied to the associated pairs.
	Binding backends.Binding
	// Wrapped is the KMS's ciphertext of the intermediate key: 1 to
	// MaxWrappedIK bytes.
	Wrapped []byte
}

// check tells why r cannot stand in an envelope. It looks at everything but the
// bytes of Wrapped, of which any are good.
func (r *Recipient) check(wrapped int) error {
	switch {
	case !validProvider(r.Provider):
		return fmt.Errorf("the provider is not 1 to %d bytes of [a-z0-9-]", MaxProvider)
	case len(r.Reference) == 0 || len(r.Reference) > MaxReference:
		return fmt.Errorf("the reference is %d bytes, not 1 to %d", len(r.Reference), MaxReference)
	case !utf8.ValidString(r.Reference):
		return fmt.Errorf("the reference is not valid UTF-8")
	case len(r.Version) > MaxVersion:
		return fmt.Errorf("the key version is %d bytes, at most %d are allowed", len(r.Version), MaxVersion)
	case !utf8.ValidString(r.Version):
		return fmt.Errorf("the key version is not valid UTF-8")
	case r.Binding != backends.BindingAAD && r.Binding != backends.BindingDerived && r.Binding != backends.BindingHash:
		return fmt.Errorf("binding %d is not known", uint8(r.Binding))
	case wrapped == 0 || wrapped > MaxWrappedIK:
		return fmt.Errorf("the wrapped intermediate key is %d bytes, not 1 to %d", wrapped, MaxWrappedIK)
	}
	return nil
}

func validProvider(s string) bool {
	if len(s) == 0 || len(s) > MaxProvider {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-':
		default:
			return false
		}
	}
	return true
}

// append encodes r, which has passed check, so that no length is cut.
func (r *Recipient) append(b []byte) []byte {
	b = append(append(b, byte(len(r.Provider))), r.Provider...)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(r.Reference))), r.Reference...)
	b = append(append(b, byte(len(r.Version))), r.Version...)
	b = append(b, byte(r.Binding))
	return append(binary.BigEndian.AppendUint16(b, uint16(len(r.Wrapped))), r.Wrapped...)
}

// decodeRecipient reads a recipient without its Wrapped, which it returns apart
// as it stands, so that checking an envelope copies nothing.
func decodeRecipient(c *cursor) (Recipient, string) {
	r := Recipient{
		Provider:  c.text8(),
		Reference: c.text16(),
		Version:   c.text8(),
		Binding:   backends.Binding(c.uint8()),
	}
	return r, c.text16()
}
