package gcpkms

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/keybroker/keybroker/backends"
)

// maxReference is the greatest size of a reference, in bytes.
const maxReference = 512

const keyUsage = "write projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY"

// The forms of names. A project may have a domain before a colon, or be a number.
// Key rings and keys have 1 to 63 letters, digits, underscores and hyphens
// (google.cloud.kms.v1.CreateCryptoKeyRequest.crypto_key_id).
var (
	keyForm = regexp.MustCompile(`^projects/[a-z0-9][a-z0-9.:-]{0,127}/locations/[a-z0-9-]{1,63}` +
		`/keyRings/[A-Za-z0-9_-]{1,63}/cryptoKeys/[A-Za-z0-9_-]{1,63}$`)
	versionForm = regexp.MustCompile(`^[1-9][0-9]{0,18}$`)
)

// ValidKey returns nil if key is the resource name of a CryptoKey,
// "projects/P/locations/L/keyRings/R/cryptoKeys/K", and otherwise what is wrong
// with it and what to write. Such a name has at most 512 bytes. Whether the key
// exists is not asked.
func ValidKey(key string) error {
	if keyForm.MatchString(key) && len(key) <= maxReference {
		return nil
	}
	if name, version, ok := strings.Cut(key, "/cryptoKeyVersions"); ok && ValidKey(name) == nil {
		return fmt.Errorf("%s names a version of a key (%s); write the key itself, whose primary version wraps: %s",
			shown(key), shown(strings.TrimPrefix(version, "/")), name)
	}
	trimmed := strings.Trim(strings.TrimSpace(key), "/")
	for _, prefix := range []string{"gcp-kms://", "gcpkms://", "https://cloudkms.googleapis.com/v1/", "cloudkms.googleapis.com/"} {
		trimmed = strings.TrimPrefix(trimmed, prefix)
	}
	if trimmed != key && ValidKey(trimmed) == nil {
		return fmt.Errorf("%q has more than the resource name of a key; write %s", shown(key), trimmed)
	}
	return fmt.Errorf("%q is not the resource name of a CryptoKey; %s", shown(key), keyUsage)
}

// checkKey is ValidKey as a failure.
func checkKey(key string) error {
	if err := ValidKey(key); err != nil {
		return backends.Fail(backends.InvalidArgument, "%w", err)
	}
	return nil
}

// version returns N if name is the version N of key.
func version(name, key string) (string, bool) {
	n, ok := strings.CutPrefix(name, key+"/cryptoKeyVersions/")
	return n, ok && versionForm.MatchString(n)
}
