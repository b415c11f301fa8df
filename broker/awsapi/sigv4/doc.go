// Package sigv4 verifies AWS Signature Version 4 of requests to an endpoint that
// speaks the AWS KMS JSON protocol.
//
// Parse reads what a request claims, without hashing anything; the caller finds the
// secret of the claimed access key; Verify proves the claim. Both are pure functions
// of what they are given: no clock, no I/O, no state. They are safe for concurrent use.
//
//	claim, err := sigv4.Parse(request)        // who the caller says he is
//	secret, ok := lookUp(claim.AccessKeyID)   // the caller's business
//	err = claim.Verify(secret, now, window)   // whether he is
//
// # Which requests
//
// Four kinds of clients sign differently: aws-sdk-rust (TiKV since v8.5), rusoto (TiKV
// up to v8.4), botocore and aws-sdk-go-v2. They differ in the headers that they sign, so
// the client's own SignedHeaders list says what is hashed. Whatever it lists, host and
// every x-amz-* header that was received must be in it: nothing that gives the request
// its meaning may be unsigned. The region is free and may be empty, as it is from rusoto
// with an endpoint of its own: it only salts the key.
//
// Where the four would hash one request differently, it is refused rather than guessed:
//
//   - A path may have letters, digits, "-._~/" and percent escapes only. There the
//     second encoding that the service asks for is the same for all: "%" becomes "%25".
//     aws-sdk-rust does no more than that, the others escape every other character, too.
//   - A path may have no empty segment and no "." or "..": some remove them, some do not.
//   - A signed value may have no tab or other control character: botocore takes a tab for
//     a space, the others do not.
//
// No client sends a query, a presigned request, an unsigned or a streamed payload to
// KMS, and this broker issues no session tokens: all of these are refused.
//
// # Why not the signer of aws-sdk-go-v2
//
// A verifier could sign the received request again and compare. The signer of
// aws-sdk-go-v2 (aws/signer/v4) cannot do this for all four clients, nor in a safe way:
// it chooses the signed headers itself and never signs user-agent or expect, takes the
// content-length from the request rather than the list, and tells the signature only
// inside a header. Above all it takes the secret as a string and keeps each derived key
// in a cache for the life of the process, so neither can be wiped. Its key derivation
// is an internal package. So the few lines of the HMAC chain are here, and the signer is
// the oracle of the tests.
package sigv4
