// Package audit is the broker's append-only, hash-chained log: one JSON object a
// line, each naming the hash of the line before it, across files.
//
// Append returns nil only once its record is in the file (or on disk). Whoever
// answers a request first appends its record, and refuses the request if that
// fails; so an answer without a record cannot exist. A record without an answer
// can.
//
// What is written is never changed or truncated, and deleted only as whole files, as
// Retention says. If a file ends in a
// torn line, or a write or fsync of it failed, it is left as it is under its
// rotated name, and a new file goes on with the chain; its first record, of
// event repair, accounts for what the former file ends in.
//
//	record.go      what a record says
//	encode.go      the record as JSON, at most 8 KiB
//	hide.go        values of a context that are hidden
//	line.go        the line: chain, hash, limits
//	log.go         Open, Append, Head, Close
//	writer.go      the one goroutine that writes
//	successor.go   how a file is followed by the next
//	recover.go     how the end of a file is read back
//	rotate.go      how a file follows another in the ordinary way, and what is signed
//	checkpoint.go  the signed text, and what the broker remembers of it
//	signer.go      the signing key and its successor
//	keeper.go      former files: compressed, removed
//	tail.go        readers
//	refusals.go    refusals that are summed
//	files.go       every call that creates, syncs or renames a file
//
// docs/audit.md specifies the format, so that it can be checked without this
// package. Package audit/verify is such a checker.
package audit
