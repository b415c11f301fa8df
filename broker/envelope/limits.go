package envelope

// Limits of the format. Parse holds every one of them before it does any work
// that grows with what an envelope claims; NewIKPart and Seal refuse to write
// what Parse would refuse to read. They are part of the format: raising one
// would make envelopes that deployed readers refuse.
const (
	// MaxSize is the greatest size of a whole envelope in bytes. It is what AWS
	// KMS takes as a CiphertextBlob
	// (https://docs.aws.amazon.com/kms/latest/APIReference/API_Decrypt.html).
	MaxSize = 6144
	// MaxKeyName is the greatest length of a key name in bytes.
	MaxKeyName = 64
	// MaxRecipients is the greatest number of recipients. The least is 1.
	MaxRecipients = 8
	// MaxProvider is the greatest length of a recipient's provider in bytes.
	MaxProvider = 32
	// MaxReference is the greatest length of a recipient's reference in bytes.
	MaxReference = 512
	// MaxVersion is the greatest length of a recipient's key version in bytes.
	MaxVersion = 64
	// MaxWrappedIK is the greatest length of a wrapped intermediate key in bytes.
	MaxWrappedIK = 1024
	// MaxContextPairs is the greatest number of pairs in a Pairs. Static pairs
	// are one fewer, since the key's name is added to them.
	MaxContextPairs = 64
	// MaxContextBytes is the greatest length of the canonical encoding of a
	// Pairs: all names and values, 8 bytes a pair, and 4.
	MaxContextBytes = 8192
	// MaxPlaintext is the greatest size of a sealed plaintext in bytes (what AWS
	// KMS Encrypt takes). The least is 1. An IK part that takes much of MaxSize
	// leaves room for less.
	MaxPlaintext = 4096
	// IKSize is the size of an intermediate key in bytes.
	IKSize = 32
	// MaxIKPart is the greatest size of an IK part in bytes: it leaves room in
	// MaxSize for a plaintext of 64 bytes, the largest data key there is.
	MaxIKPart = MaxSize - envelopePartSize - sealedOverhead - 64
)

// Magic is what every envelope begins with. No ciphertext of AWS KMS does: those
// begin with the byte 1.
const Magic = "KBWK"

const (
	formatVersion = 1

	saltSize       = 32
	commitmentSize = 32

	// envelopePartSize: creation time and salt.
	envelopePartSize = 8 + saltSize
	// sealedOverhead: length, nonce and tag.
	sealedOverhead = 2 + nonceSize + tagSize
	nonceSize      = 12
	tagSize        = 16

	// maxCreatedAt is 9999-12-31T23:59:59Z, the last second that RFC 3339 and
	// google.protobuf.Timestamp can tell.
	maxCreatedAt = 253402300799
)
