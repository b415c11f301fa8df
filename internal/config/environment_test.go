package config_test

import (
	"maps"
	"os/user"

	"github.com/keybroker/keybroker/internal/config"
)

// environment is a host with a few users and groups, where no file is looked at.
func environment() config.Environment {
	users := map[string]uint32{"root": 0, "keybroker": 998, "tikv": 1001, "tidb": 1002, "nobody": 65534}
	groups := maps.Clone(users)
	delete(groups, "nobody")
	groups["nogroup"], groups["keybroker-admin"] = 65534, 990
	return config.Environment{
		Dir: "/etc/keybroker",
		LookupUser: func(name string) (uint32, error) {
			if id, ok := users[name]; ok {
				return id, nil
			}
			return 0, user.UnknownUserError(name)
		},
		LookupGroup: func(name string) (uint32, error) {
			if id, ok := groups[name]; ok {
				return id, nil
			}
			return 0, user.UnknownGroupError(name)
		},
		Hostname: func() (string, error) { return "host-1", nil },
	}
}
