// Package file is a KMS whose master keys stand in a directory of this machine,
// and the means to make and change them. It is for development, for tests and
// for sites without a network to a KMS.
//
// There is no secret beside the directory: whoever can read it, or a copy of it,
// can open every envelope that was made with it, for ever. A KMS that does not
// give its keys away is better wherever there is one.
//
// The directory is one keyring, with a random id that stands in the reference of
// each of its keys. A key is a file, NAME.keyring, with all versions of it. Files
// and directory belong to root or to the process's user, and nobody else has any
// access: what is less private is refused by its path and mode. A file that is a
// symbolic link is refused too, since a change puts a new file in its place; the
// directory may be one. Changes go through a temporary file, fsync and rename,
// one at a time behind a lock: after a crash there is the old file or the new
// one. A file that is not exactly what was written is refused by its path, and
// left as it is.
//
// Key bytes are wiped as soon as they have been used, in the buffers that are
// this package's own. What stays on the Go heap, where nothing can wipe it, are
// the AES key schedules of the keys that a KMS has used, until the file changes,
// cannot be read any more or the KMS is closed, and then until the memory is used
// again. Envelopes outlive all of this: a key file that is lost is lost data, so
// keep backups (package backup).
package file
