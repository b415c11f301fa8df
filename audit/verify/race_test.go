//go:build race

package verify_test

// shrink makes big logs smaller where the race detector makes all slow.
const shrink = 10
