package audit

import (
	"context"
	"io/fs"
	"os"
)

// WatchOn is Watch on a file system of which free tells.
func (l *Log) WatchOn(ctx context.Context, minFree int64, free func(dir string) (int64, error)) {
	l.watch(ctx, minFree, free)
}

// RecordFloor is what every Record fits in once its texts are digests.
const RecordFloor = recordFloor

// System is the calls that a log makes to the operating system.
type System struct {
	Open     func(path string, flag int, mode fs.FileMode) (*os.File, error)
	Write    func(f *os.File, b []byte) (int, error)
	Read     func(f *os.File, b []byte, off int64) (int, error)
	Sync     func(f *os.File) error
	Rename   func(from, to string) error
	Remove   func(path string) error
	SyncPath func(dir string) error
}

// OperatingSystem returns the real ones.
func OperatingSystem() System {
	s := operatingSystem()
	return System{s.open, s.write, s.read, s.sync, s.rename, s.remove, s.syncPath}
}

// OpenOn is Open on another system.
func OpenOn(c Config, s System) (*Log, error) {
	return open(c, system{s.Open, s.Write, s.Read, s.Sync, s.Rename, s.Remove, s.SyncPath})
}
