package policy

import (
	"errors"
	"fmt"
	"math"
)

// Match is one condition on a caller: exactly one field is set.
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
	default:
		return "DNS name " + k.name
	}
}

// Equal tells whether m and o are the same condition.
func (m Match) Equal(o Match) bool {
	a, errA := m.key()
	b, errB := o.key()
	return errA == nil && errB == nil && a == b
}

func (m Match) clone() Match {
	if m.UID != nil {
		m.UID = new(*m.UID)
	}
	if m.GID != nil {
		m.GID = new(*m.GID)
	}
	return m
}

// matchKey is a Match under which its client is found. The kind keeps a user
// from being taken for a group, and a TLS caller, whose uid is zero, for root.
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
)

var errMatch = errors.New("a match has exactly one of a user, a group, a SPIFFE ID and a DNS name")

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
	switch {
	case n != 1:
		return matchKey{}, errMatch
	case k.name == "" && (k.id == overflowID || k.id == math.MaxUint32):
		return matchKey{}, fmt.Errorf("the id %d is nobody's", k.id)
	}
	return k, nil
}
