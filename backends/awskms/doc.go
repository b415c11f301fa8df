// Package awskms is a KMS whose master keys are symmetric keys of AWS KMS.
//
// # What it asks of AWS
//
// Keys are wrapped by Encrypt and unwrapped by Decrypt, each with the key's ARN
// and the pairs as encryption context, so that CloudTrail shows them. The broker's
// role needs, on each key:
//
//	kms:Encrypt, kms:Decrypt, kms:DescribeKey
//
// DescribeKey is asked when KMS refuses a key for its state, to tell a disabled
// key from a key store that is down, and for checks of keys that the role may not
// encrypt with. For keys that are only unwrapped, Encrypt can be left out.
//
// A wrap costs one request, an unwrap one, and a check one, or two when nothing
// was wrapped or unwrapped yet. All of them count against the quota for
// cryptographic operations. So would a dry run, which KMS also bills, and which
// proves less: a check therefore decrypts something.
//
// # Keys and references
//
// A master key is configured by its ARN, and it must be of the backend's region.
// An alias is refused, since it can be pointed at another key. A reference is the
// ARN that KMS names in its answer. The replicas of a multi-region key (mrk-) are
// one key: their ARNs match by partition, account and id, and what was wrapped by
// a replica in another region is unwrapped by the one that is configured.
//
// KMS names the key material that was used, its version of a key, when it
// decrypts, and not when it encrypts. It could be learned by another request, which
// a rotation could come between. So no version is recorded. The ciphertext itself
// says which material opens it.
//
// # Credentials
//
// They come from the SDK's default chain, a profile, or a web identity token, and
// may be exchanged for those of a role. They are renewed in the background some
// minutes before they end, while calls go on with those that are there. If KMS does
// not accept them, environment and files are read again, and the call is made
// again with what has changed. A failure to get credentials is Unauthenticated, or
// Unavailable if nobody answered; it is never taken for KMS's answer about a key.
//
// If this machine's clock is wrong, the SDK learns by how much from KMS's answer,
// and the call is made again.
//
// # Network
//
// Nothing else is retried: the SDK's retries are turned off for KMS, and bounded
// to one for sources of credentials. HTTPS_PROXY and its like count, and so do the
// SDK's own environment variables where Config does not say otherwise. Redirects
// are not followed.
//
// # Copies of key bytes
//
// The body of an Encrypt and the answer to a Decrypt are made and read here, as
// byte slices that are wiped; no string of them comes into being. What cannot be
// wiped are the buffers of the HTTP and TLS connections, where what was last
// written and read stays, in base64. A connection ends after half a minute without
// a call; then its buffers are garbage. Credentials are strings of the SDK's.
package awskms
