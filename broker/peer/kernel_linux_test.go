package peer

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// What other kernels, and other states of it, make of SO_PEERPIDFD.
func TestPeerPidfd(t *testing.T) {
	for name, tc := range map[string]struct {
		answer unix.Errno
		err    error // nil: the caller is taken as he is
	}{
		"before Linux 6.5":                        {unix.ENOPROTOOPT, nil},
		"waited for, Linux 6.5 to 6.14":           {unix.EINVAL, ErrExited},
		"waited for, Linux 6.15":                  {unix.ESRCH, ErrExited},
		"no process":                              {unix.ENODATA, ErrExited},
		"too many open files":                     {unix.EMFILE, unix.EMFILE},
		"no memory":                               {unix.ENOMEM, unix.ENOMEM},
		"forbidden by a filter of system calls":   {unix.EPERM, unix.EPERM},
		"unknown to a filter or a sandbox":        {unix.ENOSYS, unix.ENOSYS},
		"asked of what is no thread group leader": {unix.ENOENT, unix.ENOENT},
	} {
		t.Run(name, func(t *testing.T) {
			var refused []error
			var caller Identity
			l, err := ListenUnix(Config{Path: filepath.Join(t.TempDir(), "s"), Mode: 0o600, UID: -1, GID: -1, Options: Options{
				Refused: func(id Identity, err error) {
					caller = id
					refused = append(refused, err)
				},
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			works := l.kernel.peerPidfd
			l.kernel.peerPidfd = func(int) (int, error) {
				l.kernel.peerPidfd = works // for the next one
				return -1, os.NewSyscallError("getsockopt", tc.answer)
			}
			for range 2 {
				conn, err := net.Dial("unix", l.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
			}
			accepted, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer accepted.Close()
			if tc.err != nil {
				if len(refused) != 1 || !errors.Is(refused[0], tc.err) {
					t.Fatalf("refused: %v, want %v", refused, tc.err)
				}
				if caller.Network != Unix || caller.UID != uint32(os.Geteuid()) || caller.GID != uint32(os.Getegid()) || caller.PID != int32(os.Getpid()) || caller.Exe != "" {
					t.Errorf("the caller is %+v", caller)
				}
				return
			}
			p := accepted.(*Conn).Peer()
			if len(refused) != 0 || p.Identity.UID != uint32(os.Geteuid()) || p.Identity.PID != int32(os.Getpid()) || p.Identity.Exe != "" {
				t.Fatalf("the caller is %+v, refused %v", p.Identity, refused)
			}
			// Nothing is decided by the process that nothing is known of.
			if err := errors.Join(p.Alive(), accepted.Close(), p.Alive()); err != nil {
				t.Errorf("Alive: %v", err)
			}
		})
	}
}

// sysctl can set the kernel to show another id for those that it cannot name.
func TestOverflowIDs(t *testing.T) {
	own, ownGroup := uint32(os.Geteuid()), uint32(os.Getegid())
	for name, tc := range map[string]struct {
		kernel   kernel
		uid, gid bool
	}{
		"other ids":   {kernel{overflowUID: own + 1, overflowGID: ownGroup + 1, peerPidfd: peerPidfd}, false, false},
		"this uid":    {kernel{overflowUID: own, overflowGID: ownGroup + 1, peerPidfd: peerPidfd}, true, false},
		"this gid":    {kernel{overflowUID: own + 1, overflowGID: ownGroup, peerPidfd: peerPidfd}, false, true},
		"both of us":  {kernel{overflowUID: own, overflowGID: ownGroup, peerPidfd: peerPidfd}, true, true},
		"the default": {newKernel(), own == 65534, ownGroup == 65534},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := ListenUnix(Config{Path: filepath.Join(t.TempDir(), "s"), Mode: 0o600, UID: -1, GID: -1})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			l.kernel = tc.kernel
			conn, err := net.Dial("unix", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			accepted, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer accepted.Close()
			id := accepted.(*Conn).Peer().Identity
			if id.UIDOverflow != tc.uid || id.GIDOverflow != tc.gid {
				t.Errorf("the caller is %+v", id)
			}
			for _, g := range id.Groups {
				if g == tc.kernel.overflowGID {
					t.Errorf("it is in the group of everybody, %d", g)
				}
			}
		})
	}
}

func TestOverflowIDIsRead(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]uint32{"65534\n": 65534, "1234\n": 1234, "4294967294": 4294967294, "": 65534, "-2\n": 65534, "4294967296\n": 65534} {
		path := filepath.Join(dir, "id")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := sysctlID(path); got != want {
			t.Errorf("%q is %d, want %d", text, got, want)
		}
	}
	if got := sysctlID(filepath.Join(dir, "missing")); got != 65534 {
		t.Errorf("where it is hidden it is %d", got)
	}
}

// Between the look whether a socket is stale and its replacement, anything may
// come to its place.
func TestMoveToReplacesNothing(t *testing.T) {
	for name, put := range map[string]func(path string) error{
		"a file":      func(path string) error { return os.WriteFile(path, []byte("precious"), 0o600) },
		"a directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"a link":      func(path string) error { return os.Symlink("nothing", path) },
		"a socket":    func(path string) error { return unix.Mknod(path, unix.S_IFSOCK|0o600, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
			if err := errors.Join(unix.Mknod(from, unix.S_IFSOCK|0o600, 0), put(to)); err != nil {
				t.Fatal(err)
			}
			before, err := os.Lstat(to)
			if err != nil {
				t.Fatal(err)
			}
			if err := moveTo(from, to); !errors.Is(err, ErrInUse) {
				t.Errorf("moveTo: %v", err)
			}
			if after, err := os.Lstat(to); err != nil || !os.SameFile(before, after) {
				t.Errorf("it is another file: %v", err)
			}
		})
	}
	dir := t.TempDir()
	if err := moveTo(filepath.Join(dir, "nothing"), filepath.Join(dir, "to")); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir) {
		t.Errorf("moveTo of nothing: %v", err)
	}
}

func TestWhichAcceptErrorsPass(t *testing.T) {
	for errno, want := range map[unix.Errno]bool{
		unix.EMFILE: true, unix.ENFILE: true, unix.ENOBUFS: true, unix.ENOMEM: true,
		unix.ECONNABORTED: true, unix.EPERM: true, unix.EACCES: true,
		unix.EBADF: false, unix.EINVAL: false, unix.ENOTSOCK: false, unix.EFAULT: false, unix.EOPNOTSUPP: false,
	} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			var text bytes.Buffer
			l := newListener(nil, nil, Options{Logger: slog.New(slog.NewTextHandler(&text, nil))}, nil)
			cause := &net.OpError{Op: "accept", Net: "unix", Err: os.NewSyscallError("accept4", errno)}
			err := l.acceptError(cause)
			// The words are those of grpc-go.
			temporary, ok := err.(interface{ Temporary() bool })
			if got := ok && temporary.Temporary(); got != want {
				t.Errorf("temporary: %v, want %v", got, want)
			}
			if !errors.Is(err, errno) || err.Error() != cause.Error() {
				t.Errorf("the error is %v", err)
			}
			if logged := strings.Contains(text.String(), errno.Error()); logged != want {
				t.Errorf("logged: %s", text.String())
			}
		})
	}
}

func TestSparseLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text bytes.Buffer
		log := newSparseLog(slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			},
		})))
		write := func(n int) {
			for i := range n {
				log.warn("refused", "n", i)
			}
		}
		write(3)
		time.Sleep(time.Second - 1)
		write(4)
		time.Sleep(time.Nanosecond)
		write(2)
		time.Sleep(time.Hour)
		write(1)
		want := ""
		for _, left := range []int{0, 6, 1} {
			want += fmt.Sprintf("level=WARN msg=refused n=0 left_out=%d\n", left)
		}
		if text.String() != want {
			t.Errorf("the log is\n%s, want\n%s", text.String(), want)
		}
	})
}

// Every user comes and goes; what is kept of them does not grow.
func TestPerUIDForgets(t *testing.T) {
	p := perUID{max: 2}
	for uid := range uint32(1000) {
		var took []bool
		for range 3 {
			took = append(took, p.take(uid))
		}
		if !slices.Equal(took, []bool{true, true, false}) {
			t.Fatalf("uid %d could take %v", uid, took)
		}
		p.release(uid)
		if !p.take(uid) {
			t.Fatalf("uid %d cannot have what it gave back", uid)
		}
		p.release(uid)
		p.release(uid)
	}
	if len(p.open) != 0 {
		t.Errorf("%d users are kept", len(p.open))
	}
}
