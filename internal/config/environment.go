package config

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
)

// Environment is what a configuration takes from where it is read. All fields
// but CredentialsDirectory are required.
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
	}
}

func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("its id is %q, which is no number", s)
	}
	return uint32(n), nil
}
