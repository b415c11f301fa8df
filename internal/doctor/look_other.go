//go:build !linux

package doctor

// Examine knows Linux only.
func Examine(Host) []Finding {
	return []Finding{{"system", Bad, "keybroker serves on Linux only; elsewhere it needs --insecure and knows no caller"}}
}
