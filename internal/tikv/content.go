package tikv

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// maxMetadata is how many entries Content.Metadata may have. TiKV writes five.
const maxMetadata = 64

// Content is the message encryptionpb.EncryptedContent of kvproto, as far as
// key.dict has it. It is read and written by hand: kvproto's Go module would bring
// gogo/protobuf, which is no longer kept, and grpc-gateway, for two fields.
type Content struct {
	// Metadata says how Ciphertext was encrypted, by the names Meta*.
	Metadata map[string][]byte
	// Ciphertext is the encrypted message, without nonce and tag.
	Ciphertext []byte
}

// The fields of EncryptedContent. Others, which log backups have, are skipped.
const (
	fieldMetadata protowire.Number = 1
	fieldContent  protowire.Number = 2
	fieldKey      protowire.Number = 1 // of an entry of metadata
	fieldValue    protowire.Number = 2
)

// ParseContent reads a serialized EncryptedContent, of which it keeps nothing. Of
// what is there twice the last one counts, as protobuf has it. The error is an
// ErrCorrupted.
func ParseContent(b []byte) (Content, error) {
	c := Content{Metadata: map[string][]byte{}}
	err := fields(b, func(number protowire.Number, value []byte) error {
		switch number {
		case fieldContent:
			c.Ciphertext = bytes.Clone(value)
		case fieldMetadata:
			name, text, err := entry(value)
			if err != nil {
				return err
			}
			c.Metadata[name] = bytes.Clone(text)
			if len(c.Metadata) > maxMetadata {
				return fmt.Errorf("%w: more than %d entries of metadata", ErrCorrupted, maxMetadata)
			}
		}
		return nil
	})
	if err != nil {
		return Content{}, err
	}
	return c, nil
}

// entry reads one entry of the map.
func entry(b []byte) (name string, value []byte, err error) {
	value = []byte{}
	err = fields(b, func(number protowire.Number, field []byte) error {
		switch number {
		case fieldKey:
			if !utf8.Valid(field) {
				return fmt.Errorf("%w: a name in the metadata is not UTF-8", ErrCorrupted)
			}
			name = string(field)
		case fieldValue:
			value = field
		}
		return nil
	})
	return name, value, err
}

// fields calls f for every field of a message that has a length, and skips the
// others.
func fields(b []byte, f func(protowire.Number, []byte) error) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("%w: no protobuf message", ErrCorrupted)
		}
		b = b[n:]
		if kind == protowire.BytesType {
			value, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return fmt.Errorf("%w: field %d is cut short", ErrCorrupted, number)
			}
			if err := f(number, value); err != nil {
				return err
			}
			b = b[n:]
			continue
		}
		if number == fieldMetadata || number == fieldContent {
			return fmt.Errorf("%w: field %d is of another type", ErrCorrupted, number)
		}
		n = protowire.ConsumeFieldValue(number, kind, b)
		if n < 0 {
			return fmt.Errorf("%w: field %d is cut short", ErrCorrupted, number)
		}
		b = b[n:]
	}
	return nil
}

// Marshal returns c as protobuf, the metadata in the order of their names. TiKV
// reads them in any order.
func (c Content) Marshal() []byte {
	var b []byte
	for _, name := range slices.Sorted(maps.Keys(c.Metadata)) {
		var e []byte
		e = protowire.AppendTag(e, fieldKey, protowire.BytesType)
		e = protowire.AppendString(e, name)
		e = protowire.AppendTag(e, fieldValue, protowire.BytesType)
		e = protowire.AppendBytes(e, c.Metadata[name])
		b = protowire.AppendTag(b, fieldMetadata, protowire.BytesType)
		b = protowire.AppendBytes(b, e)
	}
	if len(c.Ciphertext) > 0 {
		b = protowire.AppendTag(b, fieldContent, protowire.BytesType)
		b = protowire.AppendBytes(b, c.Ciphertext)
	}
	return b
}
