// Package gcptest is a Cloud KMS for tests: a gRPC server on the loopback with
// TLS, and the servers that give tokens for it. It encrypts for real, and checks
// what Google's checks: tokens, permissions, resource names, the purpose of keys,
// the states of versions, lengths and CRC32Cs. Its texts are those of Google's as
// far as they are known. It can be made to fail in every way that a client must
// bear.
//
// It is imported from tests only, of the broker too: give the broker Endpoint,
// CAFile and CredentialsFile.
package gcptest
