package peer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ErrInUse: another process serves the socket.
var ErrInUse = errors.New("another process serves this socket; stop it, or configure another path")

// MaxPath is the longest path a unix socket can be reached by, in bytes:
// sun_path is 108 with its final zero (unix(7)).
const MaxPath = 107

// probeTimeout bounds the try to connect to a socket that is there already.
const probeTimeout = 2 * time.Second

// Config says which socket ListenUnix makes.
type Config struct {
	// Path is absolute and at most MaxPath bytes.
	Path string
	// Mode is the socket's permission bits.
	Mode fs.FileMode
	// UID and GID are its owner; -1 leaves the process's own.
	UID, GID int
	Logger   *slog.Logger
}

// ListenUnix makes a unix socket and listens on it. It has its owner and mode
// before anybody can connect, whatever the umask. A socket that a process left
// behind is replaced; one that a living process serves is not: ErrInUse. What is
// not a socket is never removed.
//
// The directory must be there, be root's or this process's own, and not be
// writable by others. A file beside the socket, its name with .lock behind it,
// is locked until the Listener is closed, so that of two processes that start at
// the same time one wins.
func ListenUnix(cfg Config) (_ *Listener, err error) {
	if len(cfg.Path) > MaxPath {
		return nil, fmt.Errorf("socket %s: the path is %d bytes, the system's limit is %d; configure a shorter one", cfg.Path, len(cfg.Path), MaxPath)
	}
	dir := filepath.Dir(cfg.Path)
	if err := checkDir(dir); err != nil {
		return nil, fmt.Errorf("socket %s: %w", cfg.Path, err)
	}
	lock, err := lockFile(cfg.Path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", cfg.Path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	if err := checkStale(cfg.Path); err != nil {
		return nil, fmt.Errorf("socket %s: %w", cfg.Path, err)
	}

	// The socket is made in a directory that nobody else can enter, and moved to
	// its place when it is as it should be. The directory's name is fixed: what
	// an earlier crash left there is ours to remove, since we hold the lock.
	private := filepath.Join(dir, "."+filepath.Base(cfg.Path)+".new")
	if err := os.RemoveAll(private); err != nil {
		return nil, err
	}
	if err := os.Mkdir(private, 0o700); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(private)) }()
	l, err := listenIn(private)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", cfg.Path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	made := filepath.Join(private, socketName)
	if err := os.Lchown(made, cfg.UID, cfg.GID); err != nil {
		return nil, fmt.Errorf("socket %s: owner %d:%d: %w; the process must be a member of the group", cfg.Path, cfg.UID, cfg.GID, err)
	}
	if err := os.Chmod(made, cfg.Mode.Perm()); err != nil {
		return nil, err
	}
	ours, err := os.Lstat(made)
	if err != nil {
		return nil, err
	}
	if err := os.Rename(made, cfg.Path); err != nil {
		return nil, err
	}
	return &Listener{unix: l, log: cfg.Logger, after: func() error {
		return errors.Join(removeIfSame(cfg.Path, ours), lock.Close())
	}}, nil
}

// socketName is the socket's name while it is made.
const socketName = "s"

// listenIn listens on a socket in dir. The path given to bind(2) goes through
// the directory's descriptor, so that it is short however long dir is.
func listenIn(dir string) (*net.UnixListener, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	short := "/proc/self/fd/" + strconv.Itoa(int(d.Fd())) + "/" + socketName
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	return l, nil
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
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("directory %s belongs to uid %d, who could put a socket of his own there; chown it to root or to this process's user", dir, st.Uid)
	}
	if mode := info.Mode(); mode.Perm()&0o022 != 0 && mode&fs.ModeSticky == 0 {
		return fmt.Errorf("directory %s (mode %04o) is writable by others, who could put a socket of their own there; chmod go-w it", dir, mode.Perm())
	}
	return nil
}

// lockFile takes the lock that whoever serves the socket holds.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrInUse
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// checkStale holds that path may be taken: nothing is there, or a socket that
// nobody serves.
func checkStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("there is something that is no socket (%s); remove it, or configure another path", info.Mode())
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		return errors.Join(ErrInUse, conn.Close())
	case errors.Is(err, unix.ECONNREFUSED):
		return nil // its process is gone
	default:
		return fmt.Errorf("it cannot be told whether a process serves it: %w", err)
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
