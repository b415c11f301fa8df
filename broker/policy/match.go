package policy

import (
	"errors"
	"fmt"
	"math"
)

// Match is one condition on a caller: exactly one field is set. A UID, GID,
// SPIFFEID or DNSName of its own is never met by a caller on AWS's protocol, and AWS
// by no other.
type Match struct {
	// UID is the caller's effective user id at connect.
	UID *uint32
	// GID is the caller's effective group id at connect or one of its
	// supplementary groups.
	GID *uint32
	// SPIFFEID is the URI SAN of the caller's certificate, whole and exact.
	SPIFFEID string
	// DNSName is one DNS SAN of the caller's certificate, exact: no wildcard, and
	// never the common name.
	DNSName string
	// AWS is a caller that signs with an access key.
	AWS *AWSMatch
}

// AWSMatch is a caller on AWS's protocol: an access key and a user. A policy has
// one client of each access key.
type AWSMatch struct {
	// AccessKeyID is what its requests are signed with. Not empty.
	AccessKeyID string
	// UID is the local user that its socket belongs to (peer.TCPListener). It must
	// be known.
	UID *uint32
	// AnyUser lets in whoever has the secret, known or not, in place of UID.
	AnyUser bool
}

// String returns the condition for messages.
func (m Match) String() string {
	k, err := m.key()
	if err != nil {
		return err.Error()
	}
	switch k.kind {
	case byUID:
		return fmt.Sprintf("uid %d", k.id)
	case byGID:
		return fmt.Sprintf("gid %d", k.id)
	case bySPIFFEID:
		return "SPIFFE ID " + k.name
	case byAccessKey:
		if m.AWS.AnyUser {
			return "access key " + k.name + " of any user"
		}
		return fmt.Sprintf("access key %s of uid %d", k.name, *m.AWS.UID)
	default:
		return "DNS name " + k.name
	}
}

// Equal tells whether m and o are the same condition.
func (m Match) Equal(o Match) bool {
	a, errA := m.key()
	b, errB := o.key()
	return errA == nil && errB == nil && a == b && m.String() == o.String()
}

func (m Match) clone() Match {
	if m.UID != nil {
		m.UID = new(*m.UID)
	}
	if m.GID != nil {
		m.GID = new(*m.GID)
	}
	if m.AWS != nil {
		m.AWS = new(*m.AWS)
		if m.AWS.UID != nil {
			m.AWS.UID = new(*m.AWS.UID)
		}
	}
	return m
}

// matchKey is a Match under which its client is found. The kind keeps a user
// from being taken for a group, and a TLS caller, whose uid is zero, for root. The
// user of an access key is not in it, so that the key has one client.
type matchKey struct {
	kind matchKind
	id   uint32
	name string
}

type matchKind uint8

const (
	byUID matchKind = iota + 1
	byGID
	bySPIFFEID
	byDNSName
	byAccessKey
)

var (
	errMatch    = errors.New("a match has exactly one of a user, a group, a SPIFFE ID, a DNS name and an access key")
	errAWSMatch = errors.New("a match by access key has an access key id, and either a user or any user")
)

// overflowID is what the kernel reports for every user and group that it cannot
// name in the broker's user namespace, unless sysctl says otherwise
// (user_namespaces(7)).
const overflowID = 65534

// key fails if m is not exactly one condition that a caller can meet.
func (m Match) key() (matchKey, error) {
	var k matchKey
	n := 0
	if m.UID != nil {
		k, n = matchKey{kind: byUID, id: *m.UID}, n+1
	}
	if m.GID != nil {
		k, n = matchKey{kind: byGID, id: *m.GID}, n+1
	}
	if m.SPIFFEID != "" {
		k, n = matchKey{kind: bySPIFFEID, name: m.SPIFFEID}, n+1
	}
	if m.DNSName != "" {
		k, n = matchKey{kind: byDNSName, name: m.DNSName}, n+1
	}
	if m.AWS != nil {
		k, n = matchKey{kind: byAccessKey, name: m.AWS.AccessKeyID}, n+1
	}
	switch {
	case n != 1:
		return matchKey{}, errMatch
	case k.kind == byAccessKey && (k.name == "" || (m.AWS.UID == nil) != m.AWS.AnyUser):
		return matchKey{}, errAWSMatch
	case k.kind == byAccessKey && !m.AWS.AnyUser && isNobody(*m.AWS.UID):
		return matchKey{}, fmt.Errorf("the id %d is nobody's", *m.AWS.UID)
	case k.name == "" && isNobody(k.id):
		return matchKey{}, fmt.Errorf("the id %d is nobody's", k.id)
	}
	return k, nil
}

func isNobody(id uint32) bool { return id == overflowID || id == math.MaxUint32 }
