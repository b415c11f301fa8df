package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// manager is a service manager that keeps file descriptors for one service, as
// systemd does (sd_pid_notify_with_fds(3)).
type manager struct {
	t    *testing.T
	dir  string
	conn *net.UnixConn
	done chan struct{} // closed when it hears nothing any more

	ready chan struct{} // receives one for each READY=1

	mu     sync.Mutex
	stored []*os.File // by name and in the order in which they came

	cmd    *exec.Cmd
	exited chan struct{}
}

func newManager(t *testing.T) *manager {
	t.Helper()
	dir, err := os.MkdirTemp("", "kb") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	m := &manager{t: t, dir: dir, done: make(chan struct{}), ready: make(chan struct{}, 1)}
	if m.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path("notify"), Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	go m.listen()
	t.Cleanup(func() {
		m.end(syscall.SIGKILL)
		m.conn.Close()
		<-m.done
		for _, f := range m.stored {
			f.Close()
		}
	})
	if out, err := exec.Command("keybroker", "keyring", "create", "--dir", m.path("keyring"), "main").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m.configure("auto")
	return m
}

func (m *manager) path(name string) string { return filepath.Join(m.dir, name) }

func (m *manager) configure(handover string) {
	m.t.Helper()
	text := fmt.Sprintf(`version: 1
node: test
listen: {grpc: {socket: kb.sock, mode: "0600"}}
backends: {local: {type: file, path: %s}}
keys: {main: {recipients: [{backend: local, key: main}]}}
clients:
  test:
    match: {unix: {uid: %d}}
    allow: [{keys: ["*"], operations: ["*"]}]
    admin: ["*"]
audit: {path: audit.jsonl}
memory: {locked: prefer}
cache: {capacity: 64, handover: %s}
`, m.path("keyring"), os.Getuid(), handover)
	if err := os.WriteFile(m.path("config.yaml"), []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *manager) listen() {
	defer close(m.done)
	buf, rights := make([]byte, 4096), make([]byte, 1024)
	for {
		n, oobn, _, _, err := m.conn.ReadMsgUnix(buf, rights)
		if err != nil {
			return
		}
		var files []*os.File
		name := "stored"
		lines := strings.Split(string(buf[:n]), "\n")
		for _, line := range lines {
			if of, ok := strings.CutPrefix(line, "FDNAME="); ok {
				name = of
			}
		}
		messages, err := syscall.ParseSocketControlMessage(rights[:oobn])
		if err != nil {
			m.t.Errorf("a control message: %v", err)
		}
		for _, message := range messages {
			fds, err := syscall.ParseUnixRights(&message)
			if err != nil {
				m.t.Errorf("file descriptors: %v", err)
			}
			for _, fd := range fds {
				syscall.CloseOnExec(fd)
				files = append(files, os.NewFile(uintptr(fd), name))
			}
		}
		m.mu.Lock()
		switch {
		case slices.Contains(lines, "FDSTORE=1"):
			m.stored = append(m.stored, files...)
		case slices.Contains(lines, "FDSTOREREMOVE=1"):
			m.stored = slices.DeleteFunc(m.stored, func(f *os.File) bool { return f.Name() == name && f.Close() == nil })
		case len(files) > 0:
			m.t.Errorf("file descriptors with %q", lines)
		}
		m.mu.Unlock()
		if slices.Contains(lines, "READY=1") {
			m.ready <- struct{}{}
		}
	}
}

// inodes are what is stored under the name of the hand-over memory.
func (m *manager) inodes() []uint64 {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []uint64
	for _, f := range m.stored {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			m.t.Fatal(err)
		}
		if f.Name() == "keybroker-handover" {
			all = append(all, st.Ino)
		}
	}
	return all
}

// start runs the broker with what is stored, as systemd passes it, and waits until
// it is ready.
func (m *manager) start(sockets ...*os.File) {
	m.t.Helper()
	m.mu.Lock()
	var names []string
	for range sockets {
		names = append(names, "grpc")
	}
	files := slices.Concat(sockets, m.stored)
	for _, f := range m.stored {
		names = append(names, f.Name())
	}
	m.cmd = exec.Command("/bin/sh", "-c", fmt.Sprintf("LISTEN_PID=$$ LISTEN_FDS=%d LISTEN_FDNAMES=%s exec keybroker serve -c %s",
		len(files), strings.Join(names, ":"), m.path("config.yaml")))
	m.cmd.ExtraFiles = files
	log, err := os.OpenFile(m.path("log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		m.t.Fatal(err)
	}
	defer log.Close()
	m.cmd.Stderr = log
	m.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.path("notify"), "GORACE=atexit_sleep_ms=0")
	err = m.cmd.Start()
	m.mu.Unlock()
	if err != nil {
		m.cmd = nil
		m.t.Fatal(err)
	}
	m.exited = make(chan struct{})
	go func() {
		_ = m.cmd.Wait()
		close(m.exited)
	}()
	select {
	case <-m.ready:
	case <-m.exited:
		m.t.Fatalf("it ended\n%s", m.log())
	case <-time.After(30 * time.Second):
		m.t.Fatalf("it did not become ready\n%s", m.log())
	}
}

// log is what the broker has logged so far, over all its starts.
func (m *manager) log() string {
	m.t.Helper()
	text, err := os.ReadFile(m.path("log"))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(text)
}

// end ends the broker.
func (m *manager) end(sig syscall.Signal) {
	if m.cmd != nil {
		_ = m.cmd.Process.Signal(sig)
		<-m.exited
		m.cmd = nil
	}
}

// run runs a command against the broker and returns what it printed and its exit
// code.
func (m *manager) run(args ...string) (string, int) {
	m.t.Helper()
	cmd := exec.Command("keybroker", append(args, "--socket", m.path("kb.sock"))...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		m.t.Fatal(err)
	}
	if exit != nil && testing.Verbose() {
		m.t.Logf("keybroker %s: %s", strings.Join(args, " "), exit.Stderr)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// must is run, for what has to succeed.
func (m *manager) must(args ...string) string {
	m.t.Helper()
	out, code := m.run(args...)
	if code != 0 {
		m.t.Fatalf("keybroker %s: exit code %d\n%s", strings.Join(args, " "), code, m.log())
	}
	return out
}

// starts is what the audit says of every start.
func (m *manager) starts() []string {
	m.t.Helper()
	text, err := os.ReadFile(m.path("audit.jsonl"))
	if err != nil {
		m.t.Fatal(err)
	}
	var starts []string
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, `"event":"start"`) {
			starts = append(starts, line)
		}
	}
	return starts
}

func (m *manager) wantStart(want string) {
	m.t.Helper()
	starts := m.starts()
	if last := starts[len(starts)-1]; !strings.Contains(last, want) {
		m.t.Errorf("the start record does not say %q: %s\n%s", want, last, m.log())
	}
}

// outage moves the keyring away, and puts something there that cannot be used: no
// answer, where no file would be the answer that there is no such key.
func (m *manager) outage() {
	m.t.Helper()
	at := filepath.Join(m.path("keyring"), "main.keyring")
	if err := errors.Join(os.Rename(at, m.path("gone")), os.WriteFile(at, []byte("no keyring"), 0o600)); err != nil {
		m.t.Fatal(err)
	}
}

// With its KMS away, a broker that is killed or stopped opens after that what it
// could open before, until it is told to forget.
func TestCacheOutlivesRestarts(t *testing.T) {
	m := newManager(t)
	m.start()
	if len(m.inodes()) == 0 {
		if strings.Contains(m.log(), "memfd_secret") {
			t.Skipf("this machine has no memory for it:\n%s", m.log())
		}
		t.Fatalf("nothing is stored\n%s", m.log())
	}
	wrapped := m.path("wrapped")
	plaintext := m.must("generate", "main", "--raw", "--out", wrapped)
	m.outage()

	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGKILL} {
		before := m.inodes()
		m.end(sig)
		m.start()
		m.wantStart("intermediate keys of the former process: 1 restored, 0 dropped")
		if after := m.inodes(); len(after) != 1 || slices.Equal(after, before) {
			t.Errorf("after %v %v is stored, and %v was: want one, and another", sig, after, before)
		}
		if got := m.must("unwrap", wrapped, "--raw"); got != plaintext {
			t.Fatalf("after %v it is another data key", sig)
		}
		if _, code := m.run("generate", "main"); code != exitUnavailable {
			t.Errorf("after %v a data key was made under a restored key, or exit code %d", sig, code)
		}
	}

	m.must("purge", "--force", "main")
	m.end(syscall.SIGKILL)
	m.start()
	m.wantStart("intermediate keys of the former process: 0 restored, 0 dropped")
	if _, code := m.run("unwrap", wrapped, "--raw"); code != exitUnavailable {
		t.Errorf("exit code %d: a restart brought back what was purged", code)
	}
}

// The memory comes after the sockets, which are found as ever.
func TestHandoverBesideASocket(t *testing.T) {
	m := newManager(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: m.path("kb.sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	for range 2 {
		m.start(socket)
		m.must("generate", "main")
		m.end(syscall.SIGKILL)
	}
	if len(m.inodes()) == 1 {
		m.wantStart("intermediate keys of the former process: 1 restored, 0 dropped")
	}
}

func TestHandoverSwitchedOff(t *testing.T) {
	m := newManager(t)
	m.start()
	wrapped := m.path("wrapped")
	m.must("generate", "main", "--raw", "--out", wrapped)
	m.outage()
	m.end(syscall.SIGKILL)
	m.configure("off")
	handed := len(m.inodes()) > 0
	m.start()
	if n := len(m.inodes()); n != 0 {
		t.Errorf("%d are stored", n)
	}
	if handed {
		m.wantStart("what the former process left is ignored: cache.handover is off")
	}
	if _, code := m.run("unwrap", wrapped, "--raw"); code != exitUnavailable {
		t.Errorf("exit code %d, although the cache is not handed over", code)
	}
}

// What another has stored under the name keeps nothing from starting, and is
// removed.
func TestHandoverOfAnother(t *testing.T) {
	for name, foreign := range map[string]func(t *testing.T) *os.File{
		"a file": func(t *testing.T) *os.File {
			f, err := os.Create(filepath.Join(t.TempDir(), "f"))
			if err != nil {
				t.Fatal(err)
			}
			return f
		},
		"other memory": func(t *testing.T) *os.File {
			fd, err := unix.MemfdCreate("other", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
			if err != nil {
				t.Fatal(err)
			}
			return os.NewFile(uintptr(fd), "other")
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newManager(t)
			fd, err := unix.Dup(int(foreign(t).Fd()))
			if err != nil {
				t.Fatal(err)
			}
			m.stored = []*os.File{os.NewFile(uintptr(fd), "keybroker-handover")}
			before := m.inodes()
			m.start()
			m.wantStart("what the former process left is ignored: it is not what a keybroker left, or damaged")
			if after := m.inodes(); slices.Contains(after, before[0]) {
				t.Error("it is stored still")
			}
			m.must("generate", "main")
		})
	}
}
