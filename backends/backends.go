// Package backends holds the words that the broker and its KMS backends share:
// what a backend can do, what it is asked and answers, and how it fails. It
// imports no SDK and nothing else of keybroker; a backend imports only this
// package and its SDK.
package backends

import "context"

// KMS wraps and unwraps intermediate keys under master keys (KEKs) that it
// never gives away.
//
// A KMS is safe for concurrent use. It is made without a network call, so that
// the broker starts while the KMS is down, and connects when it is first asked.
// It does not retry on its own: a call returns by ctx's deadline at the latest,
// and what to do about a failure is the broker's decision. Every error that it
// returns wraps an *Error, whatever its cause; a ctx that ended is class
// Unavailable and still satisfies errors.Is with context.Canceled or
// context.DeadlineExceeded.
//
// Byte slices in requests belong to the caller: a KMS neither changes nor keeps
// them after it has returned. Byte slices in replies belong to the caller, who
// wipes those that hold key bytes; a KMS keeps no copy of them.
//
// What a KMS server says is checked before it is returned: an empty or
// half-filled reply is an Error, never a key.
type KMS interface {
	// Wrap encrypts req.Plaintext under the present version of the master key.
	//
	// Errors: NotFound if there is no such master key; Denied or Disabled if it
	// may not be used; InvalidArgument if it cannot serve (wrong type of key);
	// Throttled, Unavailable, Unauthenticated, Internal.
	Wrap(ctx context.Context, req WrapRequest) (Wrapped, error)

	// Unwrap decrypts req.Wrapped. It sends nothing unless req.Reference is the
	// master key that the config calls req.Key, and answers WrongKey if it is
	// not.
	//
	// Errors: as Wrap; InvalidCiphertext if the KMS says that the ciphertext or
	// its associated data is not what this master key made; WrongKey if it was
	// made by another.
	Unwrap(ctx context.Context, req UnwrapRequest) ([]byte, error)

	// Match tells whether reference, taken from an envelope that nobody has
	// vouched for, is the master key that the config calls key. It sends the
	// reference nowhere, and asks the KMS at most who the KMS itself is.
	//
	// Errors: Unavailable or Unauthenticated while the KMS has not yet told who
	// it is; InvalidArgument if key cannot be a master key of this backend. Where
	// only the master key itself can tell (a keyring's file), and is not there or
	// cannot be used, the error is an Unwrap's.
	Match(ctx context.Context, key, reference string) (bool, error)

	// Check makes the cheapest call that shows whether the master key could be
	// used to unwrap now. It returns nil or the Error that an Unwrap would
	// likely return. It proves less than an Unwrap does.
	Check(ctx context.Context, key string) error

	// Close ends the backend's goroutines and closes its connections. Calls in
	// flight may fail as Unavailable, as do calls after it. It is idempotent.
	Close() error
}

// Binding says how a wrapped key is tied to its pairs, so that the same
// ciphertext does not open for another key or another context. The numbers
// stand in envelopes and never change their meaning.
type Binding uint8

const (
	// BindingAAD ties by the KMS's associated data.
	BindingAAD Binding = 1
	// BindingDerived ties by a key derived from the SHA-256 of the associated
	// data (a Vault key with derived=true).
	BindingDerived Binding = 2
	// BindingHash ties by wrapping the plaintext followed by a hash of the
	// associated data: BindHash and UnbindHash. It is only for symmetric
	// authenticated ciphers.
	BindingHash Binding = 3
)

// String returns "aad", "derived", "hash", or "binding(N)" for any other value.
func (b Binding) String() string {
	switch b {
	case BindingAAD:
		return "aad"
	case BindingDerived:
		return "derived"
	case BindingHash:
		return "hash"
	default:
		return "binding(" + uitoa(uint8(b)) + ")"
	}
}

// WrapRequest asks for a wrap.
type WrapRequest struct {
	// Key is the master key as the config writes it.
	Key string
	// Plaintext is the intermediate key, 1 to 64 bytes.
	Plaintext []byte
	// Pairs are what the wrap is bound to, for KMSs that take and log them as
	// names and values (AWS EncryptionContext). Never changed by a KMS.
	Pairs map[string]string
	// AssociatedData is the canonical encoding of Pairs, for all others.
	AssociatedData []byte
}

// Wrapped is the answer to a WrapRequest.
type Wrapped struct {
	// Provider is the kind of KMS, as it stands in envelopes: "file",
	// "vault-transit". At most 32 bytes of [a-z0-9-].
	Provider string
	// Reference is what the master key physically is, never an alias, so that
	// it can be found without this config. 1 to 512 bytes of UTF-8.
	Reference string
	// Version is the master key version that was used, at most 64 bytes; empty
	// if the KMS does not tell.
	Version string
	// Binding says how the wrap is tied to the pairs.
	Binding Binding
	// Ciphertext is opaque, 1 to 1024 bytes.
	Ciphertext []byte
}

// UnwrapRequest asks for what Wrap returned to be opened. All its fields but
// Key, Pairs and AssociatedData come from an envelope and are not trusted.
type UnwrapRequest struct {
	// Key is the master key as the config writes it.
	Key string
	// Reference, Version, Binding and Ciphertext are as in Wrapped.
	Reference  string
	Version    string
	Binding    Binding
	Ciphertext []byte
	// Pairs and AssociatedData are as in WrapRequest.
	Pairs          map[string]string
	AssociatedData []byte
}
