package broker

import "time"

// Observer is told what happens, for metrics. Its methods are called on the
// path of requests: they must not block, and are safe for concurrent use.
// Only configured names are passed, so each parameter has few values.
type Observer interface {
	// Request: a call ended. api is the front door; client and key are empty if
	// they are not known.
	Request(api, method, client, key string, code Code, took time.Duration)
	// Lookup: an intermediate key was looked for: "hit", "miss" or "stale".
	Lookup(key, result string)
	// CacheEntries: how many intermediate keys are cached.
	CacheEntries(n int)
	// BackendCall: a KMS was called; class is "ok", an error class, or "canceled"
	// for a call that was cut short because another recipient was faster.
	BackendCall(backend, op, class string, took time.Duration)
	// Breaker: whether calls go to the backend.
	Breaker(backend string, state BreakerState)
	// KEK: whether the key could be opened by this recipient when that was last
	// checked.
	KEK(key, backend, kek string, usable bool)
	// Hedge: a recipient was asked beside one that was slow.
	Hedge(key string)
	// BackendUp: whether the last call got an answer.
	BackendUp(backend string, up bool)
	// Degraded: an envelope was made that lacks some of its key's recipients.
	Degraded(key string)
	// Runway: how long the key can be served if every KMS of it vanished now.
	Runway(key string, d time.Duration)
	// Configured: these backends and keys are the ones there are now. KEK is told
	// after it, again, of those of their recipients that have been checked.
	Configured(backends, keys []string)
}
