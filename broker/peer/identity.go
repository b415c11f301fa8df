// Package peer finds out who is calling: on a unix socket what the kernel
// recorded when the caller connected, on TLS what its certificate says, on a
// loopback address which user's the caller's socket is. It also makes the unix
// socket, so that nobody can connect to it before it has its owner and mode.
//
// Nothing here is decided by a process id, by what /proc says of a process, or by
// /etc/group: ids are reused, and a process can hand its socket to another. They
// are for the audit.
package peer

import (
	"fmt"
	"strings"
)

// Network is how a caller is connected.
type Network uint8

const (
	// Unix is over a unix socket. UID, GID and Groups say who it is.
	Unix Network = iota + 1
	// TLS is over mutual TLS. SPIFFEID and DNSNames say who it is.
	TLS
	// AWS is over AWS's protocol, on TCP. AccessKeyID and UID say who it is.
	AWS
)

// Identity is what was proven about a caller. It does not change during a
// connection. Its slices are shared: do not change them.
type Identity struct {
	Network Network

	// UID and GID are the effective ones when the caller connected (SO_PEERCRED,
	// unix(7)); Groups its supplementary groups then (SO_PEERGROUPS). On AWS there
	// is only the UID, and only with UIDKnown: the owner of the caller's socket
	// (TCPListener). UIDKnown is for AWS alone.
	UID, GID uint32
	UIDKnown bool
	Groups   []uint32
	// UIDOverflow and GIDOverflow: the id is what the kernel shows for one that
	// this user namespace has no name for. Many users are that one, so it matches
	// no client. Groups never holds it.
	UIDOverflow, GIDOverflow bool

	// SPIFFEID is the certificate's one URI SAN, if it is a SPIFFE id; DNSNames
	// are its DNS SANs. The common name says nothing.
	SPIFFEID string
	DNSNames []string

	// AccessKeyID is the access key whose secret has signed the request (AWS);
	// empty until the signature is verified.
	AccessKeyID string

	// PID is the process that connected, 0 if it is in another pid namespace, and
	// Exe its program where that can be read. For the audit only.
	PID int32
	Exe string
	// Addr is the remote address (TLS, AWS). For the audit only.
	Addr string
}

// String says who it is, for people.
func (i Identity) String() string {
	switch i.Network {
	case Unix:
		s := fmt.Sprintf("uid %d, gid %d", i.UID, i.GID)
		if i.UIDOverflow || i.GIDOverflow {
			s += " (an id of another user namespace)"
		}
		if i.PID != 0 {
			s += fmt.Sprintf(", pid %d", i.PID)
		}
		return s
	case TLS:
		var names []string
		if i.SPIFFEID != "" {
			names = append(names, i.SPIFFEID)
		}
		names = append(names, i.DNSNames...)
		if len(names) == 0 {
			names = []string{"a certificate without a name"}
		}
		return strings.Join(names, ", ") + " from " + i.Addr
	case AWS:
		s := "an unknown user"
		if i.UIDKnown {
			s = fmt.Sprintf("uid %d", i.UID)
		}
		if i.UIDOverflow {
			s += " (an id of another user namespace)"
		}
		if i.AccessKeyID != "" {
			s = "access key " + i.AccessKeyID + ", " + s
		}
		return s + " from " + i.Addr
	default:
		return "nobody"
	}
}
