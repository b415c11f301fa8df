package policy

import (
	"fmt"
	"iter"
	"strings"

	"github.com/keybroker/keybroker/broker/peer"
)

// keysOf yields every condition that the caller meets; one of a group that it
// has twice may come twice.
//
// A caller over a unix socket is its uid and its groups, one over TLS the names
// in its certificate, one on AWS's protocol its access key, whose client then says
// which user it must be; never two of these. The overflow uid says that the kernel cannot
// name the user here, so nothing of it counts; the overflow gid is just not a
// group.
func keysOf(id *peer.Identity) iter.Seq[matchKey] {
	return func(yield func(matchKey) bool) {
		switch id.Network {
		case peer.Unix:
			if id.UIDOverflow {
				return
			}
			if !yield(matchKey{kind: byUID, id: id.UID}) {
				return
			}
			if !id.GIDOverflow && !yield(matchKey{kind: byGID, id: id.GID}) {
				return
			}
			for _, g := range id.Groups {
				if !yield(matchKey{kind: byGID, id: g}) {
					return
				}
			}
		case peer.TLS:
			if id.SPIFFEID != "" && !yield(matchKey{kind: bySPIFFEID, name: id.SPIFFEID}) {
				return
			}
			for _, name := range id.DNSNames {
				if name != "" && !yield(matchKey{kind: byDNSName, name: name}) {
					return
				}
			}
		case peer.AWS:
			if id.AccessKeyID != "" {
				yield(matchKey{kind: byAccessKey, name: id.AccessKeyID})
			}
		}
	}
}

// awsUser is the user that a caller with the client's access key must be. Of a
// client without an access key, nobody is one.
type awsUser struct {
	any bool
	uid *uint32
}

// is tells whether the caller is the user.
func (u awsUser) is(id *peer.Identity) bool {
	return u.any || u.uid != nil && id.UIDKnown && !id.UIDOverflow && id.UID == *u.uid
}

// describe says who the caller is, for the error that refuses it.
func describe(id *peer.Identity) string {
	switch id.Network {
	case peer.Unix:
		return fmt.Sprintf("uid %d, gid %d", id.UID, id.GID)
	case peer.TLS:
		return fmt.Sprintf("TLS, SPIFFE ID %q, DNS names %s", id.SPIFFEID, strings.Join(id.DNSNames, ", "))
	case peer.AWS:
		key := "no verified access key"
		if id.AccessKeyID != "" {
			key = "access key " + id.AccessKeyID
		}
		if !id.UIDKnown {
			return key + ", a user who cannot be told"
		}
		return fmt.Sprintf("%s, uid %d", key, id.UID)
	default:
		return "without a proven identity"
	}
}
