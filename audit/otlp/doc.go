// Package otlp sends the records of an audit log to an OpenTelemetry collector,
// as OTLP logs over HTTP.
//
// It reads the log's files, so that no call waits for it and nothing is queued in
// memory but one batch. What the collector has acknowledged is kept as a cursor in a
// file; after an outage, of the collector or of the broker, the export goes on from
// there. So no record is left out. None is sent twice but those of the last batch,
// if the collector's answer to it was lost, or the process ended between that answer
// and the cursor's fsync: a receiver knows them by log, seq and hash.
//
// A record is sent once it is on disk and not before, so that after a power loss the
// collector does not have records that the log has not.
package otlp
