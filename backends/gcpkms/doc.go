// Package gcpkms is a KMS whose master keys are CryptoKeys of Google Cloud KMS.
//
// # What it asks of Cloud KMS
//
// A key is wrapped by Encrypt, under the CryptoKey's primary version, and
// unwrapped by Decrypt, which finds the version in the ciphertext. Both are bound
// to the associated data by additional_authenticated_data. The key's purpose must
// be ENCRYPT_DECRYPT; its protection level may be any. The broker needs
// roles/cloudkms.cryptoKeyEncrypterDecrypter on the CryptoKey, or only
// roles/cloudkms.cryptoKeyDecrypter for a key that is only unwrapped. Nothing is
// asked by GetCryptoKey: it needs another role, and its quota, 300 calls a minute
// for a whole project, is soon used up by many brokers.
//
// A wrap, an unwrap and a check are one call each. The first check of a key, and
// one after a rotation, are two or three.
//
// # References and versions
//
// A reference is the CryptoKey's resource name, as the configuration writes it;
// ValidKey tells its form. A Wrapped's version is the number of the
// CryptoKeyVersion that Encrypt says it used. An UnwrapRequest's version is not
// looked at, since the ciphertext tells its own and cannot be told another.
//
// # Integrity
//
// Every field that Cloud KMS has a CRC32C for is sent with it, and every answer
// is held against it, as Google asks of its clients. What does not fit is wiped
// and asked once more; if that does not fit either, the error is Internal. So
// with an answer that does not say that the request's CRCs were verified, or that
// names another key.
//
// # Credentials
//
// They come from a file, or from where Google's libraries look: the file that
// GOOGLE_APPLICATION_CREDENTIALS names, gcloud's, the metadata server of Compute
// Engine and GKE. They are looked for again for each token, so a file may be
// replaced at any time. A service account's key signs its tokens itself, and no
// token server is asked; all others ask the one that they name. A token is
// replaced in the background before it ends, and at once when Cloud KMS does not
// accept it.
//
// # Network
//
// Always TLS, over one connection: calls are few, and HTTP/2 carries a hundred
// at once. It is made when it is first needed, pinged while it is idle, and made
// anew within three seconds of when that is possible. Nothing is retried but what
// was damaged. Proxies of the environment (HTTPS_PROXY) are used, as by all of
// Google's libraries: TLS goes through them unread.
//
// # Copies of key bytes
//
// The buffers that messages are written to and read from are wiped when gRPC has
// done with them, and so are plaintexts that are not handed out; gRPC's buffers of
// the connection are off. What cannot be wiped are those of TLS, where what was
// last written and read stays until it is overwritten. The client library's debug log, which would
// hold whole messages, is off whatever the environment says.
package gcpkms
