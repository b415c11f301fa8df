package awsapi

import (
	"slices"
	"strings"
)

// input is what a request of any operation says. What is nil was not said, or is
// null, which is the same.
type input struct {
	keyID, sourceKeyID, destinationKeyID             *string
	keySpec                                          *string
	algorithm, sourceAlgorithm, destinationAlgorithm *string
	numberOfBytes, limit                             *int
	context, sourceContext, destinationContext       map[string]string
	grantTokens                                      []string
	marker                                           *string
	ciphertext, plaintext                            []byte
	dryRun                                           bool
	// unserved are the members that ask for what is not served.
	unserved []string
}

// decode reads a body, for an operation that has these members. As AWS does, it
// passes over members that the operation does not have; but not over one that differs
// in case only, which was meant.
func decode(body []byte, members []string) (in *input, err error) {
	in = &input{}
	defer func() {
		if err != nil {
			in.wipe()
			in = nil
		}
	}()
	s := &scanner{text: body}
	err = s.object(func(name string) error {
		if !slices.Contains(members, name) {
			if slices.ContainsFunc(members, func(m string) bool { return strings.EqualFold(m, name) }) {
				return s.bad("the name of a member in other letters, capital or small")
			}
			return s.skip()
		}
		if s.literal("null") {
			return nil
		}
		return in.read(s, name)
	})
	if err != nil {
		return in, err
	}
	return in, s.end()
}

// read reads the value of a member.
func (in *input) read(s *scanner, name string) (err error) {
	switch name {
	case "KeyId":
		in.keyID, err = one(s.string)
	case "SourceKeyId":
		in.sourceKeyID, err = one(s.string)
	case "DestinationKeyId":
		in.destinationKeyID, err = one(s.string)
	case "KeySpec":
		in.keySpec, err = one(s.string)
	case "EncryptionAlgorithm":
		in.algorithm, err = one(s.string)
	case "SourceEncryptionAlgorithm":
		in.sourceAlgorithm, err = one(s.string)
	case "DestinationEncryptionAlgorithm":
		in.destinationAlgorithm, err = one(s.string)
	case "Marker":
		in.marker, err = one(s.string)
	case "NumberOfBytes":
		in.numberOfBytes, err = one(s.integer)
	case "Limit":
		in.limit, err = one(s.integer)
	case "EncryptionContext":
		in.context, err = pairs(s)
	case "SourceEncryptionContext":
		in.sourceContext, err = pairs(s)
	case "DestinationEncryptionContext":
		in.destinationContext, err = pairs(s)
	case "CiphertextBlob":
		in.ciphertext, err = s.blob()
	case "Plaintext":
		in.plaintext, err = s.blob()
	case "DryRun":
		in.dryRun, err = s.boolean()
	case "GrantTokens":
		err = s.array(func() error {
			token, err := s.string()
			in.grantTokens = append(in.grantTokens, token)
			return err
		})
	default: // Recipient, CustomKeyStoreId, DryRunModifiers
		in.unserved = append(in.unserved, name)
		err = s.skip()
	}
	return err
}

func one[T any](read func() (T, error)) (*T, error) {
	v, err := read()
	return &v, err
}

// pairs reads an encryption context: an object of strings.
func pairs(s *scanner) (map[string]string, error) {
	m := map[string]string{}
	err := s.object(func(name string) (err error) {
		m[name], err = s.string()
		return err
	})
	return m, err
}

// wipe wipes the key bytes that the caller sent.
func (in *input) wipe() { clear(in.plaintext) }

// Limits of the service's model.
const (
	maxKeyID       = 2048
	maxCiphertext  = 6144
	maxPlaintext   = 4096
	maxBytes       = 1024
	maxGrantTokens = 10
	maxGrantToken  = 8192
	maxMarker      = 1024
	maxPage        = 1000
	symmetric      = "SYMMETRIC_DEFAULT"
)

// check holds the members that several operations have to the model.
func (in *input) check() *refusal {
	for _, name := range in.unserved {
		return refuse(unsupported, name+" is not served; leave it out")
	}
	for _, algorithm := range []*string{in.algorithm, in.sourceAlgorithm, in.destinationAlgorithm} {
		if algorithm != nil && *algorithm != symmetric {
			return refuse(invalidKeyUsage, "the only encryption algorithm is "+symmetric)
		}
	}
	if len(in.grantTokens) > maxGrantTokens {
		return refuse(validation, "GrantTokens has more than 10")
	}
	for _, token := range in.grantTokens {
		if token == "" || len(token) > maxGrantToken {
			return refuse(validation, "a grant token is 1 to 8192 characters")
		}
	}
	if in.numberOfBytes != nil && (*in.numberOfBytes < 1 || *in.numberOfBytes > maxBytes) {
		return refuse(validation, "NumberOfBytes is 1 to 1024")
	}
	if in.limit != nil && (*in.limit < 1 || *in.limit > maxPage) {
		return refuse(validation, "Limit is 1 to 1000")
	}
	if in.marker != nil && (*in.marker == "" || len(*in.marker) > maxMarker) {
		return refuse(validation, "Marker is 1 to 1024 characters")
	}
	return nil
}

// blob holds a member that must be there to its size.
func blob(name string, b []byte, most int) *refusal {
	switch {
	case b == nil:
		return refuse(validation, name+" is missing")
	case len(b) == 0 || len(b) > most:
		return refusef(validation, "%s is %d bytes; it is 1 to %d", name, len(b), most)
	}
	return nil
}

// size returns how many bytes of data key are asked for.
func (in *input) size() (uint32, *refusal) {
	switch {
	case in.keySpec != nil && in.numberOfBytes != nil:
		return 0, refuse(validation, "give KeySpec or NumberOfBytes, not both")
	case in.numberOfBytes != nil:
		return uint32(*in.numberOfBytes), nil //nolint:gosec // 1 to 1024
	case in.keySpec == nil:
		return 0, refuse(validation, "give KeySpec or NumberOfBytes")
	case *in.keySpec == "AES_256":
		return 32, nil
	case *in.keySpec == "AES_128":
		return 16, nil
	}
	return 0, refuse(validation, "KeySpec is AES_256 or AES_128")
}
