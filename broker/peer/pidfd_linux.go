package peer

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// peerProcess returns a pidfd of the process that connected (SO_PEERPIDFD, Linux
// 6.5), nil where the kernel has none, or ErrExited.
func (k kernel) peerProcess(fd int) (*pidfd, error) {
	n, err := k.peerPidfd(fd)
	switch {
	case errors.Is(err, unix.ENOPROTOOPT):
		return nil, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ESRCH), errors.Is(err, unix.ENODATA):
		// A process that was waited for is EINVAL before Linux 6.15; since 6.16
		// there is a pidfd for it too.
		return nil, ErrExited
	case err != nil:
		return nil, fmt.Errorf("SO_PEERPIDFD: %w", err)
	}
	p := &pidfd{fd: n}
	if err := p.alive(); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// peerPidfd asks for SO_PEERPIDFD. The kernel closes it on exec.
func peerPidfd(fd int) (int, error) {
	return unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
}

// alive asks the pidfd: it is readable once its process has exited
// (pidfd_open(2)).
func (p *pidfd) alive() error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.fd < 0 {
		return ErrExited
	}
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}} //nolint:gosec // descriptors are small
	for {
		n, err := unix.Poll(fds, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("pidfd: %w", err)
		case n == 0:
			return nil
		default:
			return ErrExited
		}
	}
}

// close is idempotent, and does nothing to nil.
func (p *pidfd) close() error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 {
		return nil
	}
	fd := p.fd
	p.fd = -1
	return unix.Close(fd)
}

// program is the path of the program that a process runs, or empty. The id was
// reused by nobody if the process still lives after the look.
func program(pid int32, process *pidfd) string {
	if pid <= 0 || process == nil {
		return ""
	}
	exe, err := os.Readlink("/proc/" + strconv.Itoa(int(pid)) + "/exe")
	if err != nil || process.alive() != nil {
		return ""
	}
	return exe
}
