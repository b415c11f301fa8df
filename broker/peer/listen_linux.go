package peer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// MaxPath is the longest path a unix socket can be reached by, in bytes:
// sun_path is 108 with its final zero (unix(7)).
const MaxPath = 107

// probeTimeout bounds the try to connect to a socket that is there already.
const probeTimeout = 2 * time.Second

// ListenUnix makes a unix socket and listens on it. It has its owner and mode
// before anybody can connect, whatever the umask. A socket that a process left
// behind is replaced; one that a living process serves is not: ErrInUse. What is
// not a socket is never removed.
//
// The directory must be there, be root's or this process's own, and not be
// writable by others, be it sticky or not: while no broker runs they could serve
// a socket of their own there. What is above it is not looked at. A file beside
// the socket, its name with .lock behind it, is locked until the Listener is
// closed and stays, so that of processes that start at the same time one wins.
func ListenUnix(cfg Config) (*Listener, error) {
	l, err := listenLocked(cfg)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", cfg.Path, err)
	}
	return l, nil
}

func listenLocked(cfg Config) (*Listener, error) {
	switch {
	case !filepath.IsAbs(cfg.Path) || filepath.Clean(cfg.Path) != cfg.Path || cfg.Path == "/":
		return nil, errors.New("a socket needs an absolute path in its shortest form; configure one such as /run/keybroker/keybroker.sock")
	case len(cfg.Path) > MaxPath:
		return nil, fmt.Errorf("the path is %d bytes, the system's limit is %d; configure a shorter one", len(cfg.Path), MaxPath)
	}
	if err := checkDir(filepath.Dir(cfg.Path)); err != nil {
		return nil, err
	}
	lock, err := lockFile(cfg.Path + ".lock")
	if err != nil {
		return nil, err
	}
	l, ours, err := makeSocket(cfg)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	addr := &net.UnixAddr{Name: cfg.Path, Net: "unix"}
	// The file goes while the socket keeps its inode from being used again, and
	// the lock last: until then nobody else's socket can be at the path.
	return newListener(l, addr, cfg.Options, func() error {
		return errors.Join(removeIfSame(cfg.Path, ours), l.Close(), lock.Close())
	}), nil
}

// makeSocket listens on a socket at cfg.Path, whose lock the caller holds. ours
// is the socket's file.
//
// The socket is made in a directory that nobody else can enter, and moved to its
// place when it is as it should be. The directory's name is fixed: what an
// earlier crash left there is ours to remove, since we hold the lock.
func makeSocket(cfg Config) (l *net.UnixListener, ours fs.FileInfo, err error) {
	stale, err := findStale(cfg.Path)
	if err != nil {
		return nil, nil, err
	}
	private := filepath.Join(filepath.Dir(cfg.Path), "."+filepath.Base(cfg.Path)+".new")
	if err := errors.Join(removePrivate(private), makePrivate(private)); err != nil {
		return nil, nil, err
	}
	l, err = listenIn(private)
	if err != nil {
		return nil, nil, errors.Join(err, removePrivate(private))
	}
	made := filepath.Join(private, socketName)
	ours, err = dress(made, cfg)
	if err == nil && stale != nil {
		err = removeIfSame(cfg.Path, stale)
	}
	if err == nil {
		err = moveTo(made, cfg.Path)
	}
	if err != nil {
		return nil, nil, errors.Join(err, removePrivate(private), l.Close())
	}
	if err := removePrivate(private); err != nil {
		return nil, nil, errors.Join(err, removeIfSame(cfg.Path, ours), l.Close())
	}
	return l, ours, nil
}

// socketName is the socket's name while it is made.
const socketName = "s"

// maxPathWithoutProc is the longest path that needs no /proc: while the socket
// is made its path has a dot, ".new/" and socketName more.
const maxPathWithoutProc = MaxPath - len(".") - len(".new/") - len(socketName)

// makePrivate makes a directory that only this user can enter, whatever the
// umask, and that gives its group to nothing in it.
func makePrivate(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700) //nolint:gosec // a directory, which only its owner can enter
}

// removePrivate removes what makePrivate made and a socket in it, and nothing
// else.
func removePrivate(dir string) error {
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s (%s) is in the way; remove it", dir, info.Mode())
	}
	made := filepath.Join(dir, socketName)
	if info, err := os.Lstat(made); err == nil && info.Mode().Type() == fs.ModeSocket {
		if err := os.Remove(made); err != nil {
			return err
		}
	}
	if err := unix.Rmdir(dir); err != nil {
		return fmt.Errorf("directory %s is in the way: %w; remove it", dir, err)
	}
	return nil
}

// listenIn listens on a socket in dir. If the path is too long for bind(2), it
// goes through the directory's descriptor.
func listenIn(dir string) (*net.UnixListener, error) {
	path := filepath.Join(dir, socketName)
	if len(path) > MaxPath {
		if _, err := os.Stat("/proc/self/fd"); err != nil {
			return nil, fmt.Errorf("a path this long needs /proc: %w; mount it, or configure a path of at most %d bytes", err, maxPathWithoutProc)
		}
		d, err := os.Open(dir)
		if err != nil {
			return nil, err
		}
		defer func() { _ = d.Close() }()
		path = "/proc/self/fd/" + strconv.Itoa(int(d.Fd())) + "/" + socketName
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

// dress gives the socket at path its mode and owner, and returns its file.
func dress(path string, cfg Config) (fs.FileInfo, error) {
	// The mode first: whoever gives a file away may need a privilege to change it.
	if err := os.Chmod(path, cfg.Mode.Perm()); err != nil {
		return nil, err
	}
	// chown(2) may be forbidden as such.
	if cfg.UID != -1 || cfg.GID != -1 {
		if err := os.Lchown(path, cfg.UID, cfg.GID); err != nil {
			return nil, fmt.Errorf("owner %d:%d: %w; run as root, or as this user and as a member of this group", cfg.UID, cfg.GID, err)
		}
	}
	return os.Lstat(path)
}

// moveTo moves a file to a path where nothing is.
func moveTo(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		// The file system cannot refuse to replace. The lock still keeps brokers
		// apart.
		return os.Rename(from, to)
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("something was put there while the broker started: %w", ErrInUse)
	case err != nil:
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// checkDir holds that nobody but root and this process can put another socket in
// place of ours.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("%w; make the directory first", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is no directory", dir)
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 0 && int(uid) != os.Geteuid() {
		return fmt.Errorf("directory %s belongs to uid %d, who could put a socket of his own there; chown it to root or to this process's user", dir, uid)
	}
	if mode := info.Mode(); mode.Perm()&0o022 != 0 {
		return fmt.Errorf("directory %s (mode %04o) is writable by others, who could put a socket of their own there; chmod go-w it, or configure a path in a directory of the broker's own", dir, mode.Perm())
	}
	return nil
}

// lockFile takes the lock that whoever serves the socket holds.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("the lock file %s is a symbolic link; remove it", path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("the lock file: %w; if a broker of another user left it, stop that one and remove the file", err)
	case err != nil:
		return nil, fmt.Errorf("the lock file: %w", err)
	}
	if err := lockPrivate(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func lockPrivate(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("the lock file %s is no regular file (%s); remove it", f.Name(), info.Mode())
	}
	// Whoever can open it can hold the lock, and so keep the broker from starting.
	if err := f.Chmod(0o600); err != nil {
		return err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrInUse
	}
	if err != nil {
		return &fs.PathError{Op: "flock", Path: f.Name(), Err: err}
	}
	return nil
}

// findStale holds that path may be taken: nothing is there, or a socket that
// nobody serves, which it returns.
func findStale(path string) (fs.FileInfo, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("there is something that is no socket (%s); remove it, or configure another path", info.Mode())
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		return nil, errors.Join(ErrInUse, conn.Close())
	case errors.Is(err, unix.ECONNREFUSED):
		return info, nil // its process is gone
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EPROTOTYPE):
		// It lives: its queue is full, or it takes datagrams.
		return nil, ErrInUse
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil // removed in this moment
	default:
		return nil, fmt.Errorf("it cannot be told whether a process serves it: %w; if none does, remove it", err)
	}
}

// removeIfSame removes path if it still is the file that info is of.
func removeIfSame(path string, info fs.FileInfo) error {
	now, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(now, info) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Remove(path)
}
