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
	// BackendCall: a KMS was called; class is "ok" or an error class.
	BackendCall(backend, op, class string, took time.Duration)
	// BackendUp: whether the last call got an answer.
	BackendUp(backend string, up bool)
	// Degraded: an envelope was made that lacks some of its key's recipients.
	Degraded(key string)
	// Runway: how long the key can be served if every KMS of it vanished now.
	Runway(key string, d time.Duration)
	// Configured: these backends and keys are the ones there are now.
	Configured(backends, keys []string)
}
