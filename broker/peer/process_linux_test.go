package peer_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// roleEnv makes the test binary play one of the roles, as another process, in
// place of running tests.
const roleEnv = "KEYBROKER_PEER_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		if err := roles[role](os.Args[1:]); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// process is another process, which plays a role: it answers in lines, and ends
// when its input does.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	stderr bytes.Buffer
	ended  bool
}

// play starts a process. change may change how.
func play(t *testing.T, change func(*exec.Cmd), role string, args ...string) *process {
	t.Helper()
	p, err := tryPlay(t, change, role, args...)
	if err != nil {
		t.Fatalf("role %s: %v", role, err)
	}
	return p
}

func tryPlay(t *testing.T, change func(*exec.Cmd), role string, args ...string) (*process, error) {
	t.Helper()
	// Another user may not be able to reach the binary by its path.
	p := &process{t: t, cmd: exec.Command("/proc/self/exe", args...)}
	// The race detector waits a second at the end, for what no other thread does.
	p.cmd.Env = append(os.Environ(), roleEnv+"="+role, "GORACE=atexit_sleep_ms=0")
	p.cmd.Dir = "/"
	p.cmd.Stderr = &p.stderr
	if change != nil {
		change(p.cmd)
	}
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewScanner(out)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	t.Cleanup(p.kill)
	return p, nil
}

// line returns the next line that the process writes.
func (p *process) line() string {
	p.t.Helper()
	if !p.out.Scan() {
		err := p.wait()
		p.t.Fatalf("the process wrote no line: %v, %v\n%s", p.out.Err(), err, p.stderr.String())
	}
	return p.out.Text()
}

// expect fails unless the next line is want.
func (p *process) expect(want string) {
	p.t.Helper()
	if got := p.line(); got != want {
		p.t.Fatalf("the process wrote %q, want %q", got, want)
	}
}

// say writes a line to the process.
func (p *process) say(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		p.t.Fatal(err)
	}
}

// end has the process end, and waits until it has: it is fully gone then.
func (p *process) end() {
	p.t.Helper()
	p.in.Close()
	for p.out.Scan() {
		p.t.Errorf("the process wrote %q at its end", p.out.Text())
	}
	if err := p.wait(); err != nil {
		p.t.Fatalf("the process: %v\n%s", err, p.stderr.String())
	}
}

func (p *process) wait() error {
	p.ended = true
	return p.cmd.Wait()
}

// kill is kill -9.
func (p *process) kill() {
	if p.ended {
		return
	}
	_ = p.cmd.Process.Kill()
	_ = p.wait()
}

// as starts the process as another user.
func as(uid, gid uint32, groups ...uint32) func(*exec.Cmd) {
	return func(c *exec.Cmd) {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: groups}}
	}
}

// inNamespace starts the process as root of a user namespace of its own, which
// outside is uid and gid; flags ask for other namespaces with it.
func inNamespace(uid, gid int, flags uintptr) func(*exec.Cmd) {
	return func(c *exec.Cmd) {
		c.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | flags,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}},
			Credential:  &syscall.Credential{NoSetGroups: true},
		}
	}
}

// playInNamespace is play for processes in namespaces of their own. It skips the
// test where the kernel does not let the user make them.
func playInNamespace(t *testing.T, change func(*exec.Cmd), role string, args ...string) *process {
	t.Helper()
	p, err := tryPlay(t, change, role, args...)
	for _, errno := range []syscall.Errno{syscall.EPERM, syscall.EACCES, syscall.ENOSPC, syscall.EINVAL, syscall.ENOSYS} {
		if errors.Is(err, errno) {
			t.Skipf("this kernel does not let this user make namespaces: %v (user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns, or a container's seccomp profile)", err)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// needRoot skips a test that cannot be made without root. CI has it.
func needRoot(t *testing.T, why string) {
	t.Helper()
	switch {
	case os.Geteuid() == 0:
	case os.Getenv("CI") == "true":
		t.Fatalf("CI must run as root: %s", why)
	default:
		t.Skipf("not root: %s", why)
	}
}

// needPidfd skips a test of what Linux has since 6.5.
func needPidfd(t *testing.T) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	pidfd, err := unix.GetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if errors.Is(err, unix.ENOPROTOOPT) {
		t.Skip("this kernel has no SO_PEERPIDFD (Linux 6.5)")
	}
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(pidfd)
}

// publicDir returns a directory that every user can enter and only this one can
// change, with a short path.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
