// Package doctor looks at a host for what could keep a broker from serving, or
// from protecting what it holds.
//
//	doctor.go        what a finding is
//	facts.go         what can be found out about a host
//	judge.go         what the facts mean
//	look_linux.go    finds them out
package doctor

import "encoding/json"

// Level says what a Finding means.
type Level uint8

// The levels.
const (
	// Good: as it should be.
	Good Level = iota
	// Doubtful: it works, but something should be known or changed.
	Doubtful
	// Bad: the broker does not start, or does not protect keys as it should.
	Bad
)

// String returns "ok", "warn" or "bad".
func (l Level) String() string {
	switch l {
	case Good:
		return "ok"
	case Doubtful:
		return "warn"
	default:
		return "bad"
	}
}

// MarshalJSON writes String.
func (l Level) MarshalJSON() ([]byte, error) { return json.Marshal(l.String()) }

// Finding is one thing that was looked at.
type Finding struct {
	// Subject is what was looked at, in a word or two.
	Subject string `json:"subject"`
	Level   Level  `json:"level"`
	// Text says what was found and, unless that is Good, what to do.
	Text string `json:"text"`
}

// Host says what matters to the broker that will run here. Zero fields are not
// looked at.
type Host struct {
	// ArenaBytes is the size of the locked memory; RequireLocked that the broker
	// does not start without.
	ArenaBytes    int
	RequireLocked bool
	// AuditPath is the audit log's file.
	AuditPath string
}
