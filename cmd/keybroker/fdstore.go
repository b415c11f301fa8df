package main

import (
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// storedFiles takes from LISTEN_FDS (sd_listen_fds(3)) the files that the service
// manager has stored under a name, and leaves the sockets for socket activation.
// systemd passes what it has stored after the sockets; what is passed elsewhere is
// left, too, for socket activation to complain of.
//
// The files belong to the caller, and no child gets them.
func storedFiles(name string) []*os.File {
	const first = 3 // SD_LISTEN_FDS_START
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	if err != nil || os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) || n != len(names) {
		return nil
	}
	var files []*os.File
	for ; n > 0 && names[n-1] == name; n-- {
		fd := first + n - 1
		var st syscall.Stat_t
		// If the count is wrong, it may be of the Go runtime.
		if err := syscall.Fstat(fd, &st); err != nil || st.Mode&syscall.S_IFMT == syscall.S_IFSOCK {
			break
		}
		syscall.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), name))
	}
	if len(files) > 0 {
		_ = os.Setenv("LISTEN_FDS", strconv.Itoa(n))
		_ = os.Setenv("LISTEN_FDNAMES", strings.Join(names[:n], ":"))
	}
	return files
}

// storeFile has the service manager hold file under a name (sd_pid_notify_with_fds(3),
// FDSTORE=1), in place of all that it has under it.
func storeFile(name string, file *os.File) error {
	return errors.Join(forgetFiles(name), notify("FDSTORE=1\nFDNAME="+name, file))
}

// forgetFiles has the service manager close all that it has under a name.
func forgetFiles(name string) error { return notify("FDSTOREREMOVE=1\nFDNAME=" + name) }

// serviceManager is the address where it listens; empty without one.
func serviceManager() string { return os.Getenv("NOTIFY_SOCKET") }

// notify sends the service manager a message with files, which go-systemd's SdNotify
// cannot.
func notify(message string, files ...*os.File) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: serviceManager(), Net: "unixgram"})
	if err != nil {
		return err
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = syscall.UnixRights(fds...)
	}
	// WriteMsgUnix takes no connected socket of datagrams.
	raw, err := conn.SyscallConn()
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	var sent error
	err = raw.Write(func(fd uintptr) (done bool) {
		sent = syscall.Sendmsg(int(fd), []byte(message), rights, nil, 0)
		return !errors.Is(sent, syscall.EAGAIN) && !errors.Is(sent, syscall.EINTR)
	})
	return errors.Join(err, sent, conn.Close())
}
