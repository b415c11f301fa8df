package vault

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/keybroker/keybroker/backends"
)

// maxReference is the greatest size of a reference, in bytes.
const maxReference = 512

// The forms of names. Vault's Transit takes no other key names
// (framework.GenericNameRegex); in paths it takes more than is taken here, so
// that a reference needs one escape only.
var (
	idForm   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$`)
	partForm = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)
	keyForm  = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]{0,126}[A-Za-z0-9_])?$`)
)

// reference is what the master key physically is: ID/NAMESPACE/MOUNT/KEY, where
// the slashes within NAMESPACE and MOUNT are written %2F and an empty NAMESPACE
// is the root. No part may hold a percent sign or another slash, so there are
// exactly three slashes and one way to write each key.
func (c *Config) reference(id, key string) string { return id + c.tail(key) }

// tail is a reference without the id.
func (c *Config) tail(key string) string {
	return "/" + escape(c.Namespace) + "/" + escape(c.Mount) + "/" + key
}

func escape(path string) string { return strings.ReplaceAll(path, "/", "%2F") }

// mayMatch is false if reference is not the key called key, whichever Vault this
// is. It spares the question who Vault is.
func (c *Config) mayMatch(key, reference string) bool {
	id, ok := strings.CutSuffix(reference, c.tail(key))
	return ok && idForm.MatchString(id) && (c.ID == "" || id == c.ID)
}

// checkReference holds that every reference of c is well-formed.
func (c *Config) checkReference() error {
	switch {
	case c.ID != "" && !idForm.MatchString(c.ID):
		return fmt.Errorf("id %q is not 1 to 64 letters, digits, dots, underscores and hyphens", c.ID)
	case c.Namespace == "root":
		return fmt.Errorf("namespace %q: the root namespace is written by leaving namespace out", c.Namespace)
	case c.Namespace != "" && !isPath(c.Namespace):
		return fmt.Errorf("namespace %q is no path in Vault such as %q", c.Namespace, "team/prod")
	case !isPath(c.Mount):
		return fmt.Errorf("mount %q is no path in Vault such as %q", c.Mount, DefaultMount)
	}
	const longestID, longestKey = 64, 128
	if n := longestID + len(c.tail("")) + longestKey; n > maxReference {
		return fmt.Errorf("namespace and mount are too long by %d bytes to stand in an envelope", n-maxReference)
	}
	return nil
}

// isPath tells whether s is a path in Vault: parts with single slashes between.
func isPath(s string) bool {
	for part := range strings.SplitSeq(s, "/") {
		if !partForm.MatchString(part) || part == "." || part == ".." {
			return false
		}
	}
	return true
}

// checkKey holds that key can name a Transit key.
func checkKey(key string) error {
	if keyForm.MatchString(key) {
		return nil
	}
	return backends.Fail(backends.InvalidArgument, "no Transit key can have this name; want 1 to 128 letters, digits, dots, underscores and hyphens, beginning and ending with a letter, digit or underscore")
}
