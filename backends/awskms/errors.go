package awskms

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/keybroker/keybroker/backends"
)

// gaveUp is the failure of a call whose ctx has ended.
func gaveUp(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.Is(cause, errClosed) {
		return backends.Fail(backends.Unavailable, "%w", cause)
	}
	return backends.Fail(backends.Unavailable, "AWS was not waited for any longer: %w", backends.Ended(ctx))
}

// Limits of what is shown of a text that came from outside.
const (
	maxShown = 400 // bytes
	// overlap is how many bytes of a secret a text may not repeat.
	overlap = 12
)

// shown returns text on one line, and cut if it is long; or a remark instead, if
// it repeats one of the secrets.
func shown(text string, secrets ...[]byte) string {
	for _, secret := range secrets {
		n := min(overlap, len(secret))
		for i := 0; n > 0 && i+n <= len(secret); i++ {
			if strings.Contains(text, string(secret[i:i+n])) {
				return "(not shown, since it repeats a secret)"
			}
		}
	}
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxShown {
		text = text[:maxShown] + "…"
	}
	quoted := strconv.Quote(text)
	return quoted[1 : len(quoted)-1]
}
