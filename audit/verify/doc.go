// Package verify checks an audit log by nothing but its files. It shares no code
// with the writer: what it takes for a record is what docs/audit.md says.
//
//	verify.go       Files, its options and its result
//	file.go         the files: their first records, their order, their ends
//	content.go      what a file holds, decompressed
//	lines.go        lines, of any length in bounded memory
//	record.go       one line as a record
//	chain.go        lines as a chain: what fits, and where it goes on after what does not
//	checkpoint.go   public keys, and signed notes about a record
//	signatures.go   who may sign, and what must have been signed
package verify
