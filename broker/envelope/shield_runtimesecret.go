//go:build goexperiment.runtimesecret

package envelope

import "runtime/secret"

// shield runs f, which computes with key bytes, and erases the registers and the
// stack that it used before it returns, and the heap that it allocated once the
// garbage collector finds it unreachable (runtime/secret; on Linux, amd64 and
// arm64).
func shield(f func()) { secret.Do(f) }
