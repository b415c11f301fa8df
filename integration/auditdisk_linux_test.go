package integration_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// run runs a program of the system, and returns what it printed.
func run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// disk is a file system of its own for an audit log.
type disk struct {
	t     *testing.T
	at    string // the mount point
	loop  string // its device, if it has one
	fuse  *faultyFS
	heals []func() // what has to be undone, youngest last
}

// logDir makes the directory of the log.
func (d *disk) logDir() string {
	d.t.Helper()
	dir := filepath.Join(d.at, "log")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		d.t.Fatal(err)
	}
	return dir
}

// until has undo called by heal.
func (d *disk) until(undo func()) { d.heals = append(d.heals, undo) }

// heal undoes what was done to the disk.
func (d *disk) heal() {
	for n := len(d.heals) - 1; n >= 0; n-- {
		d.heals[n]()
	}
	d.heals = nil
}

// newTmpfs is a memory disk of that size.
func newTmpfs(t *testing.T, size string) *disk {
	t.Helper()
	needRoot(t, "mounting a file system")
	d := &disk{t: t, at: t.TempDir()}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "mode=0750,size="+size, "tmpfs", d.at).CombinedOutput(); err != nil {
		withheld(t, fmt.Sprintf("a memory disk of the test's own needs CAP_SYS_ADMIN: %s", out))
	}
	t.Cleanup(func() { run(t, "umount", "-l", d.at) }) // a FUSE above it may close its files a little later
	return d
}

// newExt4 is an ext4 on a loop device, which the kernel makes read-only when it
// finds it damaged, as distributions have it.
func newExt4(t *testing.T) *disk {
	t.Helper()
	needRoot(t, "mounting a file system")
	d := &disk{t: t, at: t.TempDir()}
	image := filepath.Join(newTmpfs(t, "128m").at, "image")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(64 << 20); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	for _, tool := range []string{"mkfs.ext4", "losetup", "fsfreeze", "e2fsck", "chattr"} {
		if _, err := exec.LookPath(tool); err != nil {
			without(t, "an ext4 of the test's own needs "+tool+" (e2fsprogs, util-linux)")
		}
	}
	run(t, "mkfs.ext4", "-q", image)
	out, err := exec.Command("losetup", "-f", "--show", image).CombinedOutput()
	if err != nil {
		withheld(t, fmt.Sprintf("an ext4 of the test's own needs a loop device: %s", out))
	}
	d.loop = strings.TrimSpace(string(out))
	t.Cleanup(func() { run(t, "losetup", "-d", d.loop) })
	d.mount()
	t.Cleanup(d.umount)
	return d
}

func (d *disk) mount() {
	d.t.Helper()
	run(d.t, "mount", "-o", "errors=remount-ro", d.loop, d.at)
	if err := os.Chmod(d.at, 0o750); err != nil {
		d.t.Fatal(err)
	}
}

func (d *disk) umount() {
	d.t.Helper()
	run(d.t, "umount", d.at)
}

// losePower has the disk forget what it was not told to keep, and fail from then
// on: the journal is not flushed (EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH).
func (d *disk) losePower() {
	d.t.Helper()
	const shutdown, noLogFlush = 0x8004587d, 2
	f, err := os.Open(d.at)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), shutdown, noLogFlush); err != nil {
		withheld(d.t, "this kernel's ext4 cannot be shut down: "+err.Error())
	}
}

// newFUSE is a directory seen through a file system whose calls can be made to
// fail.
func newFUSE(t *testing.T) *disk {
	t.Helper()
	needRoot(t, "mounting a file system")
	d := &disk{t: t, at: t.TempDir(), fuse: &faultyFS{}}
	under, err := fs.NewLoopbackRoot(newTmpfs(t, "8m").at) // of which nothing is slow
	if err != nil {
		t.Fatal(err)
	}
	server, err := fs.Mount(d.at, &faultyNode{under.(*fs.LoopbackNode), d.fuse},
		&fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "faulty"}})
	if err != nil {
		withheld(t, "a file system of the test's own needs /dev/fuse: "+err.Error())
	}
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Errorf("umount: %v", err)
		}
	})
	return d
}

// faultyFS is a file system of which calls fail.
type faultyFS struct {
	mu   sync.Mutex
	what diskFaults
}

// diskFaults is what fails of it.
type diskFaults struct {
	// write, sync and create are what these calls fail with; 0: they do not.
	write, sync, create syscall.Errno
	// short is how many bytes the first write that fails writes all the same.
	short int
	// hungWrite and hungSync are closed when these calls go on; nil: they do not
	// wait.
	hungWrite, hungSync chan struct{}
}

func (f *faultyFS) set(what diskFaults) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.what = what
}

func (f *faultyFS) now() diskFaults {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.what
}

// writes tells how many of n bytes a write writes, and what it fails with.
func (f *faultyFS) writes(n int) (int, syscall.Errno) {
	if hung := f.now().hungWrite; hung != nil {
		<-hung
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.what.write == 0 {
		return n, 0
	}
	short := min(f.what.short, n)
	f.what.short = 0
	return short, f.what.write
}

type faultyNode struct {
	*fs.LoopbackNode
	fs *faultyFS
}

// WrapChild implements fs.NodeWrapChilder.
func (n *faultyNode) WrapChild(_ context.Context, child fs.InodeEmbedder) fs.InodeEmbedder {
	return &faultyNode{child.(*fs.LoopbackNode), n.fs}
}

func (n *faultyNode) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if fails := n.fs.now().create; fails != 0 {
		return nil, nil, 0, fails
	}
	child, f, flags, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	return child, n.faulty(f), flags, errno
}

func (n *faultyNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	f, flags, errno := n.LoopbackNode.Open(ctx, flags)
	return n.faulty(f), flags, errno
}

func (n *faultyNode) faulty(f fs.FileHandle) fs.FileHandle {
	if f, ok := f.(*fs.LoopbackFile); ok {
		return &faultyFile{f, n.fs}
	}
	return f
}

type faultyFile struct {
	*fs.LoopbackFile
	fs *faultyFS
}

// PassthroughFd refuses: the kernel would write without asking.
func (f *faultyFile) PassthroughFd() (int, bool) { return 0, false }

func (f *faultyFile) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	n, fails := f.fs.writes(len(data))
	if n == 0 && fails != 0 {
		return 0, fails
	}
	// As of a short write, the caller learns of the cause by the next one.
	return f.LoopbackFile.Write(ctx, data[:n], off)
}

func (f *faultyFile) Fsync(ctx context.Context, flags uint32) syscall.Errno {
	what := f.fs.now()
	if what.hungSync != nil {
		<-what.hungSync
	}
	if what.sync != 0 {
		return what.sync
	}
	return f.LoopbackFile.Fsync(ctx, flags)
}

// fill leaves no byte of the disk free, or as many as rest.
func (d *disk) fill(rest uint64) (undo func()) {
	d.t.Helper()
	path := filepath.Join(d.at, "filler")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	page := make([]byte, 4096)
	for {
		var s syscall.Statfs_t
		if err := syscall.Statfs(d.at, &s); err != nil {
			d.t.Fatal(err)
		}
		if s.Bavail*uint64(s.Bsize) <= rest {
			break
		}
		if _, err := f.Write(page); err != nil {
			break
		}
	}
	return func() {
		if err := os.Remove(path); err != nil {
			d.t.Error(err)
		}
	}
}

// settled is long after what a sync interval of 100 ms leaves to a power loss.
const settled = time.Second
