package config

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
)

// Environment is what a configuration takes from where it is read. Dir,
// LookupUser, LookupGroup and Hostname are required.
type Environment struct {
	// Dir is the absolute directory that relative paths start from.
	Dir string
	// LookupUser and LookupGroup return the id of a name, or say why there is none.
	LookupUser, LookupGroup func(name string) (uint32, error)
	// Hostname is the default of node.
	Hostname func() (string, error)
	// CredentialsDirectory replaces ${CREDENTIALS_DIRECTORY} where a file is named.
	// Empty: there is none.
	CredentialsDirectory string
	// UID and GID are the broker's own.
	UID, GID uint32
	// Groups returns the ids of the groups of a user, Members the names of the users
	// of a group, those included whose first group it is. Both say so if they do not
	// know the id. Nil: nothing is known of any. They serve warnings only.
	Groups  func(uid uint32) ([]uint32, error)
	Members func(gid uint32) ([]string, error)
	// AnyoneMayBind tells whether a local user without privileges may listen on a TCP
	// port. Nil: it is not known, and nothing is said of it.
	AnyoneMayBind func(port uint16) bool
}

// System returns the environment of this process and host, for a configuration
// in dir.
func System(dir string) Environment {
	return Environment{
		Dir: dir,
		LookupUser: func(name string) (uint32, error) {
			u, err := user.Lookup(name)
			if err != nil {
				return 0, err
			}
			return parseID(u.Uid)
		},
		LookupGroup: func(name string) (uint32, error) {
			g, err := user.LookupGroup(name)
			if err != nil {
				return 0, err
			}
			return parseID(g.Gid)
		},
		Hostname:             os.Hostname,
		CredentialsDirectory: os.Getenv("CREDENTIALS_DIRECTORY"),
		UID:                  uint32(os.Geteuid()), //nolint:gosec // an id
		GID:                  uint32(os.Getegid()), //nolint:gosec // an id
		Groups:               groupsOf,
		Members:              membersOf,
		AnyoneMayBind: func(port uint16) bool {
			return uint64(port) >= unprivilegedPorts("/proc/sys/net/ipv4/ip_unprivileged_port_start")
		},
	}
}

// unprivilegedPorts is the first port that everyone may bind (ip(7)): what the
// file says, and 1024 where it cannot be read.
func unprivilegedPorts(path string) uint64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 1024
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil {
		return 1024
	}
	return n
}

func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("its id is %q, which is no number", s)
	}
	return uint32(n), nil
}
