// Package tikv knows what TiKV keeps and expects: the file key.dict, in which the
// key of a store's keys is wrapped, and [security.encryption], the part of its
// configuration that names a KMS. It works on bytes alone: whoever calls it reads
// and writes files.
//
// The formats are those of TiKV's components/encryption (Apache-2.0), from version
// 4.0 on.
package tikv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// ErrCorrupted is what ParseKeyDict, ParseContent and Open return, wrapped, for
// bytes that TiKV did not write, or that were changed since.
var ErrCorrupted = errors.New("corrupted")

// MaxKeyDict is the size in bytes above which a file is not taken for a key.dict.
// A store adds some 60 bytes to it each time that it makes a data key, by default
// once a week.
const MaxKeyDict = 16 << 20

// The header of TiKV's encrypted files (encrypted_file/header.rs), big-endian:
// version (1 byte), reserved (3), CRC-32 (IEEE) of the content (4), size of the
// content (8).
const (
	headerSize    = 16
	headerVersion = 1
)

// ParseKeyDict returns what is in the file key.dict, of which b is the content.
// It keeps nothing of b. It takes version 1 alone, as TiKV writes it: version 2 is
// that of the log file.dict. The error is an ErrCorrupted.
func ParseKeyDict(b []byte) (Content, error) {
	if len(b) > MaxKeyDict {
		return Content{}, fmt.Errorf("%w: %d bytes, and no key.dict has more than %d", ErrCorrupted, len(b), MaxKeyDict)
	}
	if len(b) < headerSize {
		return Content{}, fmt.Errorf("%w: %d bytes, shorter than the header of %d", ErrCorrupted, len(b), headerSize)
	}
	if b[0] != headerVersion {
		return Content{}, fmt.Errorf("%w: version %d of the file's format, want %d", ErrCorrupted, b[0], headerVersion)
	}
	sum, size, content := binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint64(b[8:]), b[headerSize:]
	if size != uint64(len(content)) {
		return Content{}, fmt.Errorf("%w: the header tells of %d bytes, and %d follow", ErrCorrupted, size, len(content))
	}
	if got := crc32.ChecksumIEEE(content); got != sum {
		return Content{}, fmt.Errorf("%w: the checksum is %08x, and the header has %08x", ErrCorrupted, got, sum)
	}
	return ParseContent(content)
}

// KeyDict returns the file key.dict with c in it, as TiKV reads it.
func (c Content) KeyDict() []byte {
	content := c.Marshal()
	b := make([]byte, headerSize, headerSize+len(content))
	b[0] = headerVersion
	binary.BigEndian.PutUint32(b[4:], crc32.ChecksumIEEE(content))
	binary.BigEndian.PutUint64(b[8:], uint64(len(content)))
	return append(b, content...)
}
