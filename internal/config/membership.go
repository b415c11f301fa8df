package config

import (
	"bufio"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
)

// groupsOf returns the ids of the groups of a user of this host.
func groupsOf(uid uint32) ([]uint32, error) {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return nil, err
	}
	texts, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	var ids []uint32
	for _, text := range texts {
		id, err := parseID(text)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// membersOf returns the names of the users of a group of this host, as far as
// group(5) and passwd(5) tell. Go's os/user has no such question.
func membersOf(gid uint32) ([]string, error) {
	id := strconv.FormatUint(uint64(gid), 10)
	var members []string
	known := false
	err := eachAccount("/etc/group", func(fields []string) {
		if len(fields) > 3 && fields[2] == id {
			known = true
			members = append(members, strings.FieldsFunc(fields[3], func(r rune) bool { return r == ',' })...)
		}
	})
	if err != nil {
		return nil, err
	}
	if !known {
		return nil, fmt.Errorf("no group %d in /etc/group", gid)
	}
	err = eachAccount("/etc/passwd", func(fields []string) {
		if len(fields) > 3 && fields[3] == id {
			members = append(members, fields[0])
		}
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(members)
	return slices.Compact(members), nil
}

// eachAccount calls f with the fields of each line of a file in the form of
// passwd(5).
func eachAccount(path string, f func(fields []string)) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20) // a group may have thousands of members
	for lines.Scan() {
		f(strings.Split(lines.Text(), ":"))
	}
	return lines.Err()
}
