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
	// plainKey is a Transit key's name (Vault: framework.GenericNameRegex) and a
	// keyring key's.
	plainKey = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]{0,126}[A-Za-z0-9_])?$`)
	// awsRegion ends in a number: an availability zone is no region.
	awsRegion = regexp.MustCompile(`^[a-z]{2,5}(-[a-z]{1,11}){0,2}-[0-9]{1,2}$`)
	// keyARN is the ARN of a KMS key, with its region and id. keyAlias and keyID
	// are what else AWS KMS takes for a key.
	keyARN   = regexp.MustCompile(`^arn:aws[a-z-]{0,29}:kms:([a-z0-9-]{1,32}):[0-9]{12}:key/([A-Za-z0-9-]{1,128})$`)
	keyAlias = regexp.MustCompile(`^(arn:aws[a-z-]{0,29}:kms:[a-z0-9-]{1,32}:[0-9]{12}:)?alias/[A-Za-z0-9/_-]{1,256}$`)
	keyID    = regexp.MustCompile(`^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32})$`)
	// endpointRegion and awsAccount stand in the ARNs that the broker gives out, and
	// are of no AWS account. accessKeyID is shorter than AWS's own (16 to 128, IAM:
	// AccessKey), which are made there, and may have hyphens.
	endpointRegion = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)
	awsAccount     = regexp.MustCompile(`^[0-9]{12}$`)
	accessKeyID    = regexp.MustCompile(`^[A-Za-z0-9_-]{3,128}$`)
	// roleARN may have a path before the role's name (IAM: Role). awsSession is a
	// RoleSessionName and awsExternal an ExternalId (sts:AssumeRole).
	roleARN     = regexp.MustCompile(`^arn:aws[a-z-]{0,29}:iam::[0-9]{12}:role/([!-~]{1,510}/)?[A-Za-z0-9_+=,.@-]{1,64}$`)
	awsSession  = regexp.MustCompile(`^[A-Za-z0-9_+=,.@-]{2,64}$`)
	awsExternal = regexp.MustCompile(`^[A-Za-z0-9_+=,.@:/-]+$`)
	// cryptoKey is the resource name of a key in Cloud KMS. A project may have a
	// domain before a colon, or be a number.
	cryptoKey = regexp.MustCompile(`^projects/[a-z0-9][a-z0-9.:-]{0,127}/locations/[a-z0-9-]{1,63}` +
		`/keyRings/[A-Za-z0-9_-]{1,63}/cryptoKeys/[A-Za-z0-9_-]{1,63}$`)
	serviceAccount = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}@[A-Za-z0-9.-]{1,190}$`)
	gcpProject     = regexp.MustCompile(`^[a-z0-9][a-z0-9.:-]{0,127}$`)
	// spiffeForm is a workload's SPIFFE ID (SPIFFE-ID standard, section 2): a trust
	// domain and a path, whose segments are not . or .. (checked apart).
	spiffeForm = regexp.MustCompile(`^spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)+$`)
	// secretForm finds tokens of Vault, wherever they stand; those of OpenBao and
	// of Vault before 1.10, whose prefix alone says little; JWTs; and private keys
	// of PEM and age.
	secretForm = regexp.MustCompile(`hv[sbr]\.[A-Za-z0-9_-]{16}|^[sbr]\.[A-Za-z0-9_-]{24,}$|eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.|-----BEGIN|AGE-SECRET-KEY-`)
)
