package config

import "regexp"

// The forms of names that others define.
var (
	dnsForm   = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
	nodeForm  = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$`)
	uuidForm  = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	vaultPart = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)
	// vaultID goes into envelopes, where a slash separates it from what follows.
	vaultID = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$`)
	// masterKey is a Transit key's name (Vault: framework.GenericNameRegex) and a
	// keyring key's.
	masterKey = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]{0,126}[A-Za-z0-9_])?$`)
	// spiffeForm is a workload's SPIFFE ID (SPIFFE-ID standard, section 2): a trust
	// domain and a path, whose segments are not . or .. (checked apart).
	spiffeForm = regexp.MustCompile(`^spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)+$`)
	// secretForm finds tokens of Vault, wherever they stand; those of OpenBao and
	// of Vault before 1.10, whose prefix alone says little; JWTs; and private keys
	// of PEM and age.
	secretForm = regexp.MustCompile(`hv[sbr]\.[A-Za-z0-9_-]{16}|^[sbr]\.[A-Za-z0-9_-]{24,}$|eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.|-----BEGIN|AGE-SECRET-KEY-`)
)
