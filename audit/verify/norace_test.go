//go:build !race

package verify_test

// shrink is 1: big logs are as big as they are meant to be.
const shrink = 1
