package envelope

// ValidKeyName tells whether name can be a key's name:
// [a-z0-9][a-z0-9._-]{0,63}. Such a name is its own only spelling, and safe in
// file names, metrics, logs and terminals.
func ValidKeyName(name string) bool {
	if len(name) == 0 || len(name) > MaxKeyName {
		return false
	}
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case i > 0 && (c == '.' || c == '_' || c == '-'):
		default:
			return false
		}
	}
	return true
}
