//go:build !linux

package config

// readOnly is not known here; the modes decide.
func readOnly(string) bool { return false }
