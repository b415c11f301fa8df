package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/keybroker/keybroker/broker/peer"
)

// ErrNoClient means that no client in the config matches the caller.
var ErrNoClient = errors.New("no client matches the caller")

// NoClientError is ErrNoClient, with who was not found.
type NoClientError struct {
	// Caller is what the kernel or TLS proved about the caller.
	Caller string
	// Overflow means that the caller's uid has no name in the broker's user
	// namespace, so that no client could ever match it.
	Overflow bool
	// OtherUser is the name of the client whose access key the caller has, if he is
	// not that client's user.
	OtherUser string
}

// Error says who was refused and what would let it in.
func (e *NoClientError) Error() string {
	switch {
	case e.OtherUser != "" && !e.Overflow:
		return fmt.Sprintf("no client matches the caller (%s): the access key is client %s's, and the user is not; call as that user from a loopback address of this host, or change the client's match", e.Caller, e.OtherUser)
	case e.Overflow:
		return fmt.Sprintf("no client matches the caller (%s): its user is of another user namespace, which cannot be told from others; run it and the broker in the same one (PrivateUsers=, rootless containers)", e.Caller)
	}
	return fmt.Sprintf("no client matches the caller (%s); add one under clients", e.Caller)
}

// Unwrap returns ErrNoClient.
func (e *NoClientError) Unwrap() error { return ErrNoClient }

// AmbiguousError means that more than one client matches the caller, so that it is
// not known which rules and which name in the audit are his.
type AmbiguousError struct {
	// Clients are the names of all that match, sorted; at least two.
	Clients []string
}

// Error names the clients and says what would help.
func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("the caller matches more than one client (%s); change their match so that only one does", strings.Join(e.Clients, ", "))
}

// ambiguous is the error for a caller that several clients match.
func (p *Policy) ambiguous(id *peer.Identity) *AmbiguousError {
	e := &AmbiguousError{}
	for k := range keysOf(id) {
		if c := p.clients[k]; c != nil {
			e.Clients = append(e.Clients, c.Name)
		}
	}
	slices.Sort(e.Clients)
	e.Clients = slices.Compact(e.Clients)
	return e
}
