package audit

import "time"

// Event says what a record is about.
type Event string

// The events of calls.
const (
	EventGenerate Event = "generate"
	EventWrap     Event = "wrap"
	EventUnwrap   Event = "unwrap"
	EventRewrap   Event = "rewrap"
	EventRenew    Event = "renew"
	EventInspect  Event = "inspect"
	EventList     Event = "list"
	EventRandom   Event = "random"
	EventStatus   Event = "status"
	EventPurge    Event = "purge"
	EventReload   Event = "reload"
	EventTail     Event = "tail"
	EventDrill    Event = "drill"
	// EventHealth is a question for a key's health that was refused; no other is
	// recorded.
	EventHealth Event = "health"
	// EventDoor is a call that was refused before it was known what it asks for.
	EventDoor Event = "denied-at-the-door"
)

// The events of the broker itself.
const (
	EventStart   Event = "start"
	EventStop    Event = "stop"
	EventConfig  Event = "config"
	EventBackend Event = "backend"
	// EventAnchor says that a checkpoint is kept outside the host, or that it could not
	// be brought there.
	EventAnchor Event = "anchor"
)

// The events that the log writes of its own accord. create, rotate and repair are
// the first record of a file, and stand nowhere else.
const (
	// EventCreate begins a log that follows none.
	EventCreate Event = "create"
	// EventRotate begins a file in the ordinary way: the record's reason says why, its
	// checkpoint where the former file ends, and which key signs from then on.
	EventRotate Event = "rotate"
	// EventRepair begins a file whose former one can no longer be written: the
	// record's reason says why, its field former what that file ends in.
	EventRepair Event = "repair"
	// EventCheckpoint signs the record before it.
	EventCheckpoint Event = "checkpoint"
	// EventExpire says that a former file is removed, since it need not be kept.
	EventExpire Event = "expire"
	// EventAlarm says that the log is not what the broker had left: its reason is an
	// Alarm.
	EventAlarm Event = "alarm"
)

// Outcome says what came of it.
type Outcome string

// The outcomes.
const (
	OutcomeOK     Outcome = "ok"
	OutcomeDenied Outcome = "denied"
	OutcomeError  Outcome = "error"
)

// Client is the caller of a call. What is zero is left out of the record.
type Client struct {
	// Name is the client's name in the configuration; empty if it is none.
	Name string
	// Method is the call's name at its front door.
	Method string
	// UID and GID are what the kernel recorded at connect; nil if not known.
	UID, GID *uint32
	// PID and Exe are for the reader only: both can change hands.
	PID int32
	Exe string
	// SPIFFEID, AccessKeyID and Addr are what other front doors know.
	SPIFFEID    string
	AccessKeyID string
	Addr        string
}

// Record is what a caller of Append says. The log adds v, seq, time, node, prev
// and hash. What is zero is left out. It must hold no secret.
//
// Texts may be of any length and bytes: see Append.
type Record struct {
	Event   Event
	Outcome Outcome
	// Code and Reason are the answer's gRPC code and ErrorInfo reason.
	Code, Reason string
	Client       Client
	// Key is a key's name, only if it is configured.
	Key string
	// Envelope is the SHA-256 of the wrapped key, in hex.
	Envelope string
	// Context is the caller's context. Append does not keep it.
	Context map[string]string
	// HideContext has each of its values replaced by its HMAC-SHA-256 under a key of
	// this log: who knows the key can check a guess, and nobody else can.
	HideContext bool
	// Source is where the intermediate key came from; Backend and KEK who opened
	// it.
	Source, Backend, KEK string
	RequestID            string
	// Latency is written in whole microseconds.
	Latency time.Duration
	// Count is how many calls this record stands for, if not one.
	Count uint64
	// BootID is the kernel's boot id, for EventStart: it tells a restart of the
	// broker from one of the machine.
	BootID string
	// Detail is text for people.
	Detail string
}
