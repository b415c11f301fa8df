package integration_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// fdStore is what a service manager keeps for the broker between two processes, as
// systemd does (sd_pid_notify_with_fds(3)).
type fdStore struct {
	t      *testing.T
	socket string

	mu     sync.Mutex
	stored []*os.File // by name and in the order in which they came
}

func newFDStore(t *testing.T) *fdStore {
	t.Helper()
	s := &fdStore{t: t, socket: filepath.Join(t.TempDir(), "notify")}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.listen(conn)
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
		for _, f := range s.stored {
			_ = f.Close()
		}
	})
	return s
}

// listen ends when conn is closed.
func (s *fdStore) listen(conn *net.UnixConn) {
	buf, rights := make([]byte, 4096), make([]byte, 1024)
	for {
		n, oobn, _, _, err := conn.ReadMsgUnix(buf, rights)
		if err != nil {
			return
		}
		lines := strings.Split(string(buf[:n]), "\n")
		name := "stored"
		for _, line := range lines {
			if of, ok := strings.CutPrefix(line, "FDNAME="); ok {
				name = of
			}
		}
		files := s.files(rights[:oobn], name)
		s.mu.Lock()
		switch {
		case slices.Contains(lines, "FDSTORE=1"):
			s.stored = append(s.stored, files...)
		case slices.Contains(lines, "FDSTOREREMOVE=1"):
			s.stored = slices.DeleteFunc(s.stored, func(f *os.File) bool { return f.Name() == name && f.Close() == nil })
		case len(files) > 0:
			s.t.Errorf("file descriptors with %q", lines)
		}
		s.mu.Unlock()
	}
}

// files are those of a control message.
func (s *fdStore) files(rights []byte, name string) (files []*os.File) {
	messages, err := syscall.ParseSocketControlMessage(rights)
	if err != nil {
		s.t.Errorf("a control message: %v", err)
	}
	for _, message := range messages {
		fds, err := syscall.ParseUnixRights(&message)
		if err != nil {
			s.t.Errorf("file descriptors: %v", err)
		}
		for _, fd := range fds {
			syscall.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), name))
		}
	}
	return files
}

// holds tells whether there is something for the next process.
func (s *fdStore) holds() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.stored) > 0
}

// start is run, until b answers.
func (s *fdStore) start(b *broker, wrap ...string) {
	b.t.Helper()
	s.run(b, wrap...)
	b.answers()
}

// run starts b with what is stored. wrap is a command that b is started by.
func (s *fdStore) run(b *broker, wrap ...string) {
	b.t.Helper()
	s.mu.Lock() // until the process has them: it gives other ones for them
	defer s.mu.Unlock()
	b.files = slices.Clone(s.stored)
	b.wrap = wrap
	if len(b.files) > 0 {
		names := make([]string, len(b.files))
		for i, f := range b.files {
			names[i] = f.Name()
		}
		b.wrap = append(slices.Clone(wrap), "/bin/sh", "-c", fmt.Sprintf(`LISTEN_PID=$$ LISTEN_FDS=%d LISTEN_FDNAMES=%s exec "$@"`,
			len(names), strings.Join(names, ":")), "sh")
	}
	b.run()
}
