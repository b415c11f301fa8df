package sigv4

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

const (
	algorithm  = "AWS4-HMAC-SHA256"
	service    = "kms"
	terminator = "aws4_request"

	maxAccessKeyID = 128 // as AWS has it
	maxRegion      = 64
)

// authorization is an Authorization header:
//
//	AWS4-HMAC-SHA256 Credential=ID/YYYYMMDD/REGION/kms/aws4_request, SignedHeaders=a;b, Signature=HEX
type authorization struct {
	accessKeyID   string
	date          string // YYYYMMDD
	region        string
	signedHeaders string
	signature     [sha256.Size]byte
}

// ValidAccessKeyID reports whether Parse would take id for an access key id: 1 to 128
// ASCII letters, digits and "-._". A configured id of another form could never sign in.
func ValidAccessKeyID(id string) bool {
	if id == "" || len(id) > maxAccessKeyID {
		return false
	}
	for i := range len(id) {
		if c := id[i]; !alphanumeric(c) && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return true
}

// parseAuthorization reads the three parameters in any order, with or without spaces
// behind the commas. On a refusal, the access key id is there if it could be read.
func parseAuthorization(value string) (authorization, *Error) {
	var a authorization
	if len(value) > maxAuthorization {
		return a, refuse(Malformed, "the Authorization header is longer than %d bytes", maxAuthorization)
	}
	parameters, ok := strings.CutPrefix(value, algorithm+" ")
	if !ok {
		return a, refuse(Malformed, "the Authorization header does not begin with %s: the client must sign with Signature Version 4", algorithm)
	}
	var credential, signature string
	for parameter := range strings.SplitSeq(parameters, ",") {
		name, text, ok := strings.Cut(strings.TrimLeft(parameter, " "), "=")
		var into *string
		switch name {
		case "Credential":
			into = &credential
		case "SignedHeaders":
			into = &a.signedHeaders
		case "Signature":
			into = &signature
		}
		if !ok || into == nil || text == "" {
			return a, refuse(Malformed, "the Authorization header has something other than Credential=, SignedHeaders= and Signature=")
		}
		if *into != "" {
			return a, refuse(Malformed, "the Authorization header has %s twice", name)
		}
		*into = text
	}
	if refused := a.readCredential(credential); refused != nil {
		return a, refused
	}
	if a.signedHeaders == "" {
		return a, refuse(Malformed, "the Authorization header has no SignedHeaders")
	}
	decoded, err := hex.DecodeString(signature)
	if err != nil || len(decoded) != len(a.signature) || hex.EncodeToString(decoded) != signature {
		return a, refuse(Malformed, "the Signature of the Authorization header is not %d lower-case hex digits", hex.EncodedLen(len(a.signature)))
	}
	copy(a.signature[:], decoded)
	return a, nil
}

func (a *authorization) readCredential(credential string) *Error {
	if credential == "" {
		return refuse(Malformed, "the Authorization header has no Credential")
	}
	// An access key id has no slash, so counting from the left or from the right is
	// the same. The region may be empty.
	parts := strings.SplitN(credential, "/", 6)
	if len(parts) != 5 {
		return refuse(Malformed, "the Credential is not ID/YYYYMMDD/REGION/%s/%s", service, terminator)
	}
	if !ValidAccessKeyID(parts[0]) {
		return refuse(Malformed, "the access key id is not 1 to %d letters, digits and -._", maxAccessKeyID)
	}
	a.accessKeyID, a.date, a.region = parts[0], parts[1], parts[2]
	if len(a.region) > maxRegion || !printable(a.region) {
		return refuse(Malformed, "the region of the Credential is longer than %d bytes or not printable ASCII", maxRegion)
	}
	if parts[3] != service {
		return refuse(Malformed, "the Credential is for another service than %s: point the client's KMS endpoint here, and no other", service)
	}
	if parts[4] != terminator {
		return refuse(Malformed, "the Credential does not end in %s", terminator)
	}
	return nil
}

// printable reports whether s is printable ASCII, spaces included.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
