package grpcapi_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/keybroker/keybroker/broker"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// callerSocket tells a child of the tests to connect to a socket, to hand the
// connection to its parent, and to exit when its standard input ends.
const callerSocket = "KEYBROKER_TEST_CALLER_SOCKET"

// actAsCaller is what such a child does; in the tests themselves it is false.
func actAsCaller() bool {
	path := os.Getenv(callerSocket)
	if path == "" {
		return false
	}
	if err := handOver(path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	return true
}

// handOver connects to the socket at path and sends the connection through file
// descriptor 3.
func handOver(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return err
	}
	if err := unix.Sendmsg(3, []byte{0}, unix.UnixRights(fd), nil, 0); err != nil {
		return err
	}
	return unix.Close(fd)
}

// inherited is a connection that another process opened.
type inherited struct {
	*grpc.ClientConn
	pid int
	// exit ends that process.
	exit func()
}

// inherit starts a process that connects, and takes its connection over.
func (f *fixture) inherit() *inherited {
	f.t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = unix.Close(pair[0]) }()
	theirs := os.NewFile(uintptr(pair[1]), "pair")
	child := exec.Command("/proc/self/exe")
	child.Env = append(os.Environ(), callerSocket+"="+f.socket)
	child.ExtraFiles = []*os.File{theirs}
	child.Stderr = os.Stderr
	stdin, err := child.StdinPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		f.t.Fatal(err)
	}
	_ = theirs.Close()
	exited := false
	exit := func() {
		if exited {
			return
		}
		exited = true
		_ = stdin.Close()
		if err := child.Wait(); err != nil {
			f.t.Errorf("the caller: %v", err)
		}
	}
	f.t.Cleanup(exit)
	conn, err := receive(pair[0])
	if err != nil {
		f.t.Fatal(err)
	}
	client := f.dial(grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
		if conn == nil {
			return nil, errors.New("there is only one connection")
		}
		once := conn
		conn = nil
		return once, nil
	}))
	return &inherited{client, child.Process.Pid, exit}
}

// receive returns the connection that was sent through fd.
func receive(fd int) (net.Conn, error) {
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(fd, make([]byte, 1), control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return nil, err
	}
	if len(messages) != 1 {
		return nil, errors.New("the caller sent no connection")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fds[0]), "inherited")
	defer func() { _ = file.Close() }()
	return net.FileConn(file)
}

// needPeerPIDFD skips the test where the kernel cannot tell that a peer has
// exited.
func needPeerPIDFD(t *testing.T) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(pair[0]) }()
	defer func() { _ = unix.Close(pair[1]) }()
	fd, err := unix.GetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err != nil {
		t.Skip("needs SO_PEERPIDFD (Linux 6.5): ", err)
	}
	_ = unix.Close(fd)
}

// TestCallerExited: a connection is worth nothing to whoever holds it once the
// process that opened it has exited.
func TestCallerExited(t *testing.T) {
	needPeerPIDFD(t)
	f := newFixture(t)
	conn := f.inherit()
	keys := keybrokerv1.NewKeyBrokerClient(conn)
	g, err := keys.GenerateDataKey(t.Context(), &keybrokerv1.GenerateDataKeyRequest{KeyName: "tikv"})
	if err != nil {
		t.Fatal(err)
	}
	if r := f.last(); r.Client.PID != int32(conn.pid) || r.Client.Exe == "" {
		t.Errorf("record %+v, want pid %d", r, conn.pid)
	}
	conn.exit()
	before := len(f.records())
	_, err = keys.UnwrapKey(t.Context(), &keybrokerv1.UnwrapKeyRequest{WrappedKey: g.WrappedKey})
	wantReason(t, err, broker.AccessDenied)
	if r := f.last(); len(f.records()) != before+1 || r.Outcome != "denied" || r.Client.Method != "UnwrapKey" || r.Client.PID != int32(conn.pid) {
		t.Errorf("record %+v", r)
	}
}

// TestStreamsOfExitedCaller: streams that were open end too, and carry nothing
// more.
func TestStreamsOfExitedCaller(t *testing.T) {
	needPeerPIDFD(t)
	for _, tc := range []struct {
		name, method string
		open         func(*fixture, *inherited) (func() error, error)
		goesOn       bool // something to tell follows
	}{
		{"watch of a key", "Watch", watchOf("tikv"), false},
		{"watch of the daemon", "Watch", watchOf(""), false},
		{"tail, nothing follows", "TailAudit", tail, false},
		{"tail, a record follows", "TailAudit", tail, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			f.generate("tikv", nil)
			conn := f.inherit()
			recv, err := tc.open(f, conn)
			if err != nil {
				t.Fatal(err)
			}
			before := len(f.records())
			conn.exit()
			if tc.goesOn {
				f.generate("tikv", nil)
			}
			wantReason(t, recv(), broker.AccessDenied)
			var denied []record
			for _, r := range f.records()[before:] {
				if r.Outcome == "denied" {
					denied = append(denied, r)
				}
			}
			if len(denied) != 1 || denied[0].Client.Method != tc.method || denied[0].Client.PID != int32(conn.pid) {
				t.Errorf("records of the refusal: %+v", denied)
			}
		})
	}
}

func watchOf(service string) func(*fixture, *inherited) (func() error, error) {
	return func(f *fixture, conn *inherited) (func() error, error) {
		stream, err := healthpb.NewHealthClient(conn).Watch(f.t.Context(), &healthpb.HealthCheckRequest{Service: service})
		if err != nil {
			return nil, err
		}
		recv := func() error { _, err := stream.Recv(); return err }
		return recv, recv()
	}
}

// tail opens a tail and reads all that there is to read so far: the record
// before it and its own.
func tail(f *fixture, conn *inherited) (func() error, error) {
	stream, err := keybrokerv1.NewAdminClient(conn).TailAudit(f.t.Context(), &keybrokerv1.TailAuditRequest{Last: 1})
	if err != nil {
		return nil, err
	}
	recv := func() error { _, err := stream.Recv(); return err }
	return recv, errors.Join(recv(), recv())
}
