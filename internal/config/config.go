// Package config reads keybroker's configuration: one YAML file, read strictly.
//
// Whatever is wrong is told at once, each problem with file, line and column, the
// key's path, what was found and what would be right. A Config that was returned
// without an error is complete: defaults are filled in, names of users and groups
// are ids, paths are absolute, and every name that is used is defined.
//
// There is never a secret in it: secrets are in files of their own, of which the
// config knows the paths and looks at the permissions, never at the content but to
// hold the secrets of access keys to their form.
package config

import (
	"io/fs"
	"time"

	"github.com/keybroker/keybroker/broker/policy"
)

// Config is one valid configuration. Nothing in it is shared with another
// Config.
type Config struct {
	// Version of the configuration's format: 1.
	Version int
	// Node names this broker in the audit log. Default: the host's name.
	Node   string
	Listen Listen
	// Backends are sorted by name; at least one.
	Backends []Backend
	// Keys are sorted by name; at least one.
	Keys []Key
	// Clients are sorted by name. policy.New accepts them.
	Clients []policy.Client
	// MissRates is how many loads from a KMS a client may cause a second, by the
	// client's name; every client has one.
	MissRates map[string]float64
	// AccessKeys are those of the clients with Match.AWS, sorted by client, each id
	// once.
	AccessKeys []AccessKey
	Audit      Audit
	Memory     Memory
	Cache      Cache
	// SHA256 of the file's bytes, in lower-case hex.
	SHA256 string
	// Warnings are what is valid but may not be meant.
	Warnings Problems
}

// Listen is where the broker is reached. At least one of GRPC and GRPCTCP is
// there; what is nil is not served.
type Listen struct {
	GRPC    *GRPCSocket
	GRPCTCP *GRPCTCP
	AWSKMS  *AWSEndpoint
	Admin   *Admin
}

// GRPCSocket is the unix socket of the gRPC API.
type GRPCSocket struct {
	// Path is absolute and fits sockaddr_un.
	Path string
	// Mode is the socket's mode, permission bits only. Default 0660.
	Mode fs.FileMode
	// UID and GID are the socket's owner. Nil: the broker's own.
	UID, GID *uint32
}

// GRPCTCP is the gRPC API over TCP. It is always mutual TLS.
type GRPCTCP struct {
	// Address is host:port; host is not empty.
	Address string
	// CertFile, KeyFile and ClientCAFile are PEM files: the server's chain, its
	// key, and the roots that client certificates are verified against.
	CertFile, KeyFile, ClientCAFile string
}

// AWSEndpoint is the endpoint that speaks AWS KMS's protocol.
type AWSEndpoint struct {
	// Address is host:port. Without a certificate host is a loopback address, or
	// localhost.
	Address string
	// Region and Account stand in the ARNs that it gives out: 1 to 32 of a-z, 0-9
	// and hyphen; 12 digits. Defaults: DefaultAWSRegion, DefaultAWSAccount.
	Region, Account string
	// CertFile and KeyFile are PEM files: the server's chain and its key. Empty, both:
	// plain HTTP.
	CertFile, KeyFile string
	// AnswerBy is the longest that a request takes, 100 ms to 9 s: TiKV waits 10 s
	// for up to three. Default: DefaultAnswerBy.
	AnswerBy time.Duration
	// ClockWindow is how far the time of a signature may be off, either way, 1 s to
	// 15 min. Default: DefaultClockWindow on a loopback address, else
	// DefaultClockWindowFar.
	ClockWindow time.Duration
}

// AccessKey is an access key of AWSEndpoint.
type AccessKey struct {
	// ID is 3 to 128 letters, digits, underscores and hyphens.
	ID string
	// SecretFile holds the secret. ReadSecretKey reads it.
	SecretFile string
	// Client is the name of the client whose it is.
	Client string
}

// Admin is the HTTP listener of metrics and health.
type Admin struct {
	// Address is host:port. It is a warning if others than this host reach it.
	Address string
}

// The types of backends in this version.
const (
	TypeFile   = "file"
	TypeVault  = "vault"
	TypeAWSKMS = "aws-kms"
	TypeGCPKMS = "gcp-kms"
)

// Backend is a connection to a KMS. Exactly the field of its Type is not nil.
type Backend struct {
	Name, Type string
	File       *File
	Vault      *Vault
	AWSKMS     *AWSKMS
	GCPKMS     *GCPKMS
}

// File is a local keyring.
type File struct {
	// Path of the keyring's directory.
	Path string
}

// Vault is a Transit mount of Vault or OpenBao.
type Vault struct {
	// Address is an http or https URL without user, query and fragment.
	Address string
	// ID names the Vault cluster in envelopes. Empty: Vault's cluster_id.
	ID string
	// Namespace is without slashes at its ends; empty: the root namespace.
	Namespace string
	// Mount is the Transit mount, without slashes at its ends. Default: transit.
	Mount string
	Auth  VaultAuth
	TLS   VaultTLS
	// Timeout bounds each call. Default: DefaultKMSTimeout.
	Timeout time.Duration
}

// The methods by which the broker logs in to Vault.
const (
	MethodToken      = "token"
	MethodAppRole    = "approle"
	MethodKubernetes = "kubernetes"
)

// VaultAuth is how the broker logs in. Fields of other methods than Method's are
// zero.
type VaultAuth struct {
	Method string
	// Mount of the auth method, without slashes at its ends. Default: the method's
	// name. Empty for token.
	Mount string
	// TokenFile holds the token (token).
	TokenFile string
	// RoleIDFile and SecretIDFile hold the ids (approle). With SecretIDWrapped the
	// latter holds a response-wrapping token instead.
	RoleIDFile, SecretIDFile string
	SecretIDWrapped          bool
	// Role is the Vault role, JWTFile the service account's token (kubernetes).
	// Default of JWTFile: DefaultJWTFile.
	Role, JWTFile string
}

// VaultTLS is how Vault is verified, and who the broker is to it. Empty fields:
// the system's roots, no client certificate, the address's host.
type VaultTLS struct {
	CAFile, CertFile, KeyFile, ServerName string
}

// AWSKMS is AWS KMS in one region.
type AWSKMS struct {
	// Region is that of all master keys of this backend.
	Region string
	// Profile is that of AWS's shared configuration files which gives credentials.
	// Empty: the SDK's default chain does. Not together with WebIdentity.
	Profile string
	// Endpoint is the https URL of a host, or an http one of a loopback address,
	// without user, path, query and fragment. Empty: the region's.
	Endpoint string
	// FIPS asks KMS and STS at their FIPS 140 endpoints. Not together with Endpoint.
	FIPS bool
	// CAFile holds KMS's roots, PEM. Empty: the SDK's choice.
	CAFile string
	// AssumeRole and WebIdentity are roles to get credentials of. Nil: none.
	AssumeRole  *AWSAssumeRole
	WebIdentity *AWSWebIdentity
	// Timeout bounds each call. Default: DefaultKMSTimeout.
	Timeout time.Duration
}

// AWSAssumeRole is a role that the credentials are exchanged for.
type AWSAssumeRole struct {
	// RoleARN is arn:PARTITION:iam::ACCOUNT:role/NAME.
	RoleARN string
	// ExternalID is what the role's trust policy asks for. Empty: nothing.
	ExternalID string
	// SessionName is what CloudTrail shows. Default: DefaultAWSSessionName.
	SessionName string
}

// AWSWebIdentity is a role whose credentials are had for an OIDC token.
type AWSWebIdentity struct {
	// RoleARN is arn:PARTITION:iam::ACCOUNT:role/NAME.
	RoleARN string
	// TokenFile holds the token.
	TokenFile string
	// SessionName is what CloudTrail shows. Default: DefaultAWSSessionName.
	SessionName string
}

// GCPKMS is Google's Cloud KMS. What is empty is Google's choice.
type GCPKMS struct {
	// Endpoint is host:port of Cloud KMS in this network, always spoken to by TLS.
	Endpoint string
	// CAFile holds Endpoint's roots, PEM. Empty: the system's.
	CAFile string
	// CredentialsFile is a JSON file of Google's. Empty: Application Default
	// Credentials.
	CredentialsFile string
	// Impersonate is the email of a service account to act as. Empty: none.
	Impersonate string
	// QuotaProject is the project whose quota is used.
	QuotaProject string
	// Timeout bounds each call. Default: DefaultKMSTimeout.
	Timeout time.Duration
}

// Key is a broker key.
type Key struct {
	Name string
	// Recipients wrap and unwrap, in order of preference: 1 to 8, each a different
	// backend and key, also from FormerRecipients.
	Recipients []Recipient
	// FormerRecipients only unwrap.
	FormerRecipients []Recipient
	// MinRecipients is 1 to len(Recipients). Default: all.
	MinRecipients int
	// HedgeAfter is how long a recipient is waited for before the next one is asked
	// beside it. 0: as its backend's recent answers say.
	HedgeAfter time.Duration
	// CheckInterval is how long an intermediate key that lacks recipients is used
	// before all are tried again. Default: DefaultCheckInterval.
	CheckInterval time.Duration
	// Context is bound to every wrap; FormerContexts are accepted in envelopes made
	// before. All fit an envelope together with the key's name. Context may be nil.
	Context        map[string]string
	FormerContexts []map[string]string
	// TTL is how long an intermediate key is served from cache, MaxStale how long
	// after it was loaded it is served in an outage: 0 (not past TTL) or at least
	// TTL.
	TTL, MaxStale time.Duration
	// RefreshAfter is when it is opened again in the background if it is in use:
	// less than TTL, or 0 for never. Default: three quarters of TTL.
	RefreshAfter time.Duration
	// NegativeTTL is how long a definite refusal is remembered. Default:
	// DefaultNegativeTTL.
	NegativeTTL time.Duration
	// Warm has the first intermediate key made at the start.
	Warm bool
	// HideContext has the values of callers' contexts hidden in the audit log.
	HideContext bool
	// MaxAge and MaxUses bound how long one intermediate key makes new envelopes.
	MaxAge  time.Duration
	MaxUses uint64
	// Aliases are other names of the key; no two keys share one.
	Aliases []string
	// Passthrough is where blobs of AWS KMS itself are sent on to. Nil: nowhere.
	Passthrough *Passthrough
}

// Passthrough is a key of AWS KMS by which clients had wrapped before.
type Passthrough struct {
	// Backend is the name of one of Config.Backends, of type aws-kms.
	Backend string
	// Key is a key's ARN of the backend's region.
	Key string
	// Contexts are the encryption contexts that are sent on beside the empty one,
	// each of at least one pair. None has a name that begins with keybroker: or aws:.
	Contexts []map[string]string
}

// Recipient is a master key in a backend.
type Recipient struct {
	// Backend is the name of one of Config.Backends.
	Backend string
	// Key is the master key's name in it: a key's ARN of the backend's region
	// (aws-kms), a CryptoKey's resource name (gcp-kms), a key's name (others).
	Key string
}

// Audit is the audit log.
type Audit struct {
	Path string
	// SyncAlways has every record on disk before its answer; else it is written
	// before, and synced every SyncInterval.
	SyncAlways bool
	// SyncInterval is 0 with SyncAlways.
	SyncInterval time.Duration
	// AllowUnaudited lets calls succeed although their record could not be
	// written.
	AllowUnaudited bool
	// MinFree in bytes: with less on the log's disk, the broker warns.
	MinFree int
	Rotate  Rotate
	// SigningKey is the file of the key that signs checkpoints; CheckpointInterval how
	// often it does while records are written.
	SigningKey         string
	CheckpointInterval time.Duration
	// StrictStart refuses to start with a log that was changed while the broker was
	// down.
	StrictStart bool
	// OTLP is where the log is exported to. Nil: nowhere.
	OTLP *OTLP
	// Anchor is where the log's head is kept outside this host; nil: nowhere.
	Anchor *Anchor
}

// Anchor is where the audit log's head is kept, and how often. One of KMS and HTTP is
// not nil.
type Anchor struct {
	Interval time.Duration
	// KMS is one whose own audit trail has the associated data of every wrap in clear.
	KMS  *Recipient
	HTTP *AnchorHTTP
}

// AnchorHTTP is a server that is sent the log's signed checkpoints.
type AnchorHTTP struct {
	// URL is https, or http to a loopback address, without user, query and fragment.
	URL string
	// TokenFile holds a bearer token, CAFile the certificates of who may vouch for the
	// server; empty: none, and the system's.
	TokenFile, CAFile string
}

// Rotate says when a file of the audit log is followed by the next, and how long it is
// kept.
type Rotate struct {
	MaxSize int
	MaxAge  time.Duration
	// Keep, KeepAge and KeepSize bound the former files, by number, age and bytes; 0:
	// not at all.
	Keep     int
	KeepAge  time.Duration
	KeepSize int
	Compress bool
}

// OTLP is an OpenTelemetry collector.
type OTLP struct {
	// Endpoint is its URL, to which /v1/logs is appended.
	Endpoint string
	// HeadersFile has headers for every request. Empty: none.
	HeadersFile string
	// CAFile has the roots of its certificate. Empty: the system's.
	CAFile string
	// CertFile and KeyFile are shown to it. Both or neither is empty.
	CertFile, KeyFile string
	// Timeout bounds a request.
	Timeout time.Duration
}

// Memory is the locked memory for key bytes.
type Memory struct {
	// RequireLocked has the start fail if the memory cannot be locked.
	RequireLocked bool
	// Size in bytes; it has room for Cache.Capacity intermediate keys.
	Size int
}

// Cache bounds the cache of intermediate keys.
type Cache struct {
	// Capacity is how many are kept at most.
	Capacity int
	// Handover has the cache handed to the next process, where a service manager can
	// hold it meanwhile.
	Handover bool
	// Persist is the sealed file that a copy of it is kept in. Nil: none.
	Persist *Persist
}

// The defaults, where they are not obvious from the field.
const (
	DefaultSocketMode     fs.FileMode = 0o660
	DefaultVaultMount                 = "transit"
	DefaultKMSTimeout                 = 3 * time.Second
	DefaultAWSSessionName             = "keybroker"
	DefaultJWTFile                    = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	DefaultCheckInterval              = 5 * time.Minute
	DefaultAnchorInterval             = time.Hour
	DefaultAWSRegion                  = "us-east-1"
	DefaultAWSAccount                 = "000000000000"
	// DefaultAnswerBy leaves room for the three tries that TiKV's client makes in 10 s.
	DefaultAnswerBy = 2500 * time.Millisecond
	// DefaultClockWindow is for one host, with one clock; DefaultClockWindowFar is
	// AWS's own.
	DefaultClockWindow    = time.Minute
	DefaultClockWindowFar = 5 * time.Minute
	DefaultTTL            = time.Hour
	// DefaultMaxStale outlasts a weekend. It is also how long a broker that
	// reaches no KMS goes on with a key that was revoked there.
	DefaultMaxStale                  = 72 * time.Hour
	DefaultMaxAge                    = 24 * time.Hour
	DefaultNegativeTTL               = 5 * time.Second
	DefaultMaxUses            uint64 = 1 << 20
	DefaultMissRate                  = 50.0
	DefaultSyncInterval              = 100 * time.Millisecond
	DefaultMinFree                   = 64 << 20
	DefaultOTLPTimeout               = 10 * time.Second
	DefaultRotateSize                = 256 << 20
	DefaultRotateAge                 = 24 * time.Hour
	DefaultCheckpointInterval        = time.Minute
	DefaultMemorySize                = 1 << 20
	DefaultCacheCapacity             = 4096
)
