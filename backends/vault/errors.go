package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/keybroker/keybroker/backends"
)

// gaveUp is the failure of a call whose ctx has ended.
func gaveUp(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.Is(cause, errClosed) {
		return backends.Fail(backends.Unavailable, "%w", cause)
	}
	return backends.Fail(backends.Unavailable, "Vault was not waited for any longer: %w", backends.Ended(ctx))
}

// refusal is an answer that is no success.
type refusal struct {
	request string // "PUT transit/decrypt/tikv"
	status  int
	// texts are Vault's errors, fit to be shown; nil if the answer was not
	// Vault's JSON, so that somebody else gave it.
	texts []string
	// location is where a redirect leads; empty if it is none.
	location string
}

// Error says what was asked and answered. An answer that is not Vault's is not
// repeated: who knows what is in it.
func (r *refusal) Error() string {
	s := fmt.Sprintf("%s was answered %d", r.request, r.status)
	switch {
	case r.location != "":
		return s + ", a redirect to " + r.location + ", which is not followed; the address must be that of a node that serves or forwards"
	case !r.fromVault():
		return s + ", and not by Vault, but by what stands before it"
	case len(r.texts) == 0:
		return s
	}
	return s + ": " + strings.Join(r.texts, "; ")
}

func (r *refusal) fromVault() bool { return r.texts != nil }

// invalidToken tells that Vault does not know the token, or not any more.
func (r *refusal) invalidToken() bool {
	return r.status == http.StatusForbidden && r.says("invalid token", "bad token")
}

// says tells whether Vault's errors have one of the texts in them.
func (r *refusal) says(texts ...string) bool {
	for _, got := range r.texts {
		for _, text := range texts {
			if strings.Contains(got, text) {
				return true
			}
		}
	}
	return false
}

// class sorts what Vault answers. Texts are matched where a status has several
// meanings; Vault has no codes for them. What is not Vault's is never a definite
// answer about a key.
func (r *refusal) class() backends.Class {
	switch s := r.status; {
	case s == http.StatusTooManyRequests:
		return backends.Throttled
	case s >= 300 && s < 400 || !r.fromVault():
		return backends.Unavailable

	case r.invalidToken():
		return backends.Unauthenticated
	case s == http.StatusForbidden:
		return backends.Denied
	case s == http.StatusNotFound:
		return backends.NotFound
	case s == http.StatusBadRequest && r.says("encryption key not found"):
		return backends.NotFound
	case s == http.StatusBadRequest && r.says("(too old)", "soft-deleted key"):
		return backends.Disabled
	case s == http.StatusBadRequest && r.says("version is too new"):
		return backends.WrongKey
	case s == http.StatusBadRequest && r.says("invalid ciphertext", "message authentication failed"),
		s == http.StatusInternalServerError && r.says("failed to RSA decrypt the ciphertext"):
		return backends.InvalidCiphertext
	case s == http.StatusBadRequest, s == http.StatusMethodNotAllowed, s == http.StatusRequestEntityTooLarge,
		s == http.StatusInternalServerError && r.says("illegal base64"):
		return backends.InvalidArgument

	case s == http.StatusRequestTimeout, s == http.StatusPreconditionFailed,
		s == http.StatusNotImplemented, // not initialized
		s == http.StatusBadGateway, s == http.StatusServiceUnavailable, s == http.StatusGatewayTimeout,
		// Standby and replication states.
		s == 472, s == 473, s == 474, s == 530:
		return backends.Unavailable
	default:
		return backends.Internal
	}
}
