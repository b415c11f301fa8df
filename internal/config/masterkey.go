package config

import (
	"fmt"
	"strings"
)

// masterKey reads the name of a master key in backend, of which nothing is known
// if it has no type. What is no name may be the key itself, so it is not repeated.
func (b block) masterKey(name string, backend Backend, dst *string) {
	v, ok := b.fields[name]
	if !ok {
		return
	}
	s, ok := b.w.text(v, masterKeyWant(backend))
	if !ok {
		return
	}
	if found, want := wrongKey(s, backend); found != "" {
		b.w.problem(v, found, want)
		return
	}
	*dst = s
}

func masterKeyWant(backend Backend) string {
	switch backend.Type {
	case TypeFile, TypeVault:
		return "the master key's name in its backend: at most 128 letters, digits, dots, underscores and hyphens, with no dot or hyphen at its ends"
	case TypeAWSKMS:
		return "the key's ARN, " + arnOf(backend)
	case TypeGCPKMS:
		return "the key's resource name, projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY"
	default:
		return "the master key's name in its backend"
	}
}

// wrongKey says what is wrong with s as a key of backend, and what is right;
// nothing if it is right, or if the backend's type is not known.
func wrongKey(s string, backend Backend) (found, want string) {
	want = masterKeyWant(backend)
	switch backend.Type {
	case TypeAWSKMS:
		return wrongARN(s, backend)
	case TypeGCPKMS:
		return wrongResource(s, want)
	case TypeFile, TypeVault:
		if !plainKey.MatchString(s) {
			return "text that is no such name", want
		}
		if backend.Type == TypeFile && !nameForm.MatchString(s) {
			return quote(s), "the name of a keyring's key: " + nameWant
		}
	}
	return "", ""
}

// regionOf is what stands for the region in messages.
func regionOf(backend Backend) string {
	if backend.AWSKMS.Region == "" { // missing or wrong, which is reported there
		return "REGION"
	}
	return backend.AWSKMS.Region
}

func arnOf(backend Backend) string {
	return "arn:aws:kms:" + regionOf(backend) + ":ACCOUNT:key/ID"
}

// wrongARN is wrongKey for AWS KMS. An alias can be pointed at another key, which
// does not open what the former one has wrapped.
func wrongARN(s string, backend Backend) (found, want string) {
	want = masterKeyWant(backend)
	region := regionOf(backend)
	shows := func(id string) string {
		return fmt.Sprintf("%s, which this shows: aws kms describe-key --region %s --query KeyMetadata.Arn --output text --key-id %s", want, region, id)
	}
	parts := keyARN.FindStringSubmatch(s)
	switch {
	case parts == nil && keyAlias.MatchString(s):
		return quote(s) + ", an alias, which can be pointed at another key", shows(s)
	case parts == nil && keyID.MatchString(s):
		return "a key's id alone, which does not say in which region and account the key is", shows("ID")
	case parts == nil:
		return "text that is no such ARN", want
	case backend.AWSKMS.Region == "" || parts[1] == region:
		return "", ""
	}
	found = fmt.Sprintf("a key of region %s, and backend %s asks AWS KMS in %s", parts[1], backend.Name, region)
	if strings.HasPrefix(parts[2], "mrk-") {
		return found, fmt.Sprintf("the ARN of the key's replica in %s, or a backend for %s", region, parts[1])
	}
	return found, fmt.Sprintf("a key of %s, or a backend for %s", region, parts[1])
}

// wrongResource is wrongKey for Cloud KMS. A version is no key: each wrap is by
// the version that is then primary.
func wrongResource(s, want string) (found, _ string) {
	if cryptoKey.MatchString(s) {
		return "", ""
	}
	name, _, isVersion := strings.Cut(s, "/cryptoKeyVersions")
	if isVersion && cryptoKey.MatchString(name) {
		return "a version of a key", "the key itself, whose primary version wraps: " + name
	}
	name = strings.Trim(strings.TrimSpace(s), "/")
	for _, prefix := range []string{"gcp-kms://", "gcpkms://", "https://cloudkms.googleapis.com/v1/", "cloudkms.googleapis.com/"} {
		name = strings.TrimPrefix(name, prefix)
	}
	if cryptoKey.MatchString(name) {
		return "more than a key's resource name", name
	}
	return "text that is no such name", want
}
