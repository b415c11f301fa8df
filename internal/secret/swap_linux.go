package secret

import (
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// unswappable tells whether memory of this process cannot be swapped: the machine
// has no swap, or a control group of the process may use none of it. It is false
// if that cannot be told.
func unswappable() bool {
	var info unix.Sysinfo_t
	// Not /proc/swaps, which ProcSubset=pid hides.
	if err := unix.Sysinfo(&info); err == nil && info.Totalswap == 0 {
		return true
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	return err == nil && noSwapIn("/sys/fs/cgroup", string(groups))
}

// noSwapIn tells whether memory.swap.max is 0 for the group of the unified
// hierarchy that groups names (cgroups(7), /proc/PID/cgroup), or for one above it.
// root is where that hierarchy is mounted.
func noSwapIn(root, groups string) bool {
	for line := range strings.Lines(groups) {
		group, unified := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !unified {
			continue
		}
		for group = path.Clean("/" + group); group != "/"; group = path.Dir(group) {
			limit, err := os.ReadFile(filepath.Join(root, group, "memory.swap.max"))
			if err == nil && strings.TrimSpace(string(limit)) == "0" {
				return true
			}
		}
	}
	return false
}
