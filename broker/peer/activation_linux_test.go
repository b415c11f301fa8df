package peer_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// systemd starts a process as systemd does, with these sockets from descriptor 3
// on.
func systemd(sockets []*os.File, env ...string) func(*exec.Cmd) {
	return func(c *exec.Cmd) {
		c.ExtraFiles = sockets
		c.Env = append(c.Env, env...)
	}
}

// socket returns a socket of systemd's. With an address it is bound to it.
func socket(t *testing.T, domain, kind int, addr unix.Sockaddr, listening bool) *os.File {
	t.Helper()
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "socket")
	t.Cleanup(func() { f.Close() })
	if addr != nil {
		if err := unix.Bind(fd, addr); err != nil {
			t.Fatal(err)
		}
	}
	if listening {
		if err := unix.Listen(fd, 16); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestActivated(t *testing.T) {
	dir := publicDir(t)
	path, second := filepath.Join(dir, "s"), filepath.Join(dir, "t")
	grpc := socket(t, unix.AF_UNIX, unix.SOCK_STREAM, &unix.SockaddrUnix{Name: path}, true)
	other := socket(t, unix.AF_UNIX, unix.SOCK_STREAM, &unix.SockaddrUnix{Name: second}, true)
	p := play(t, systemd([]*os.File{other, grpc}, "LISTEN_PID=self", "LISTEN_FDS=2", "LISTEN_FDNAMES=kms:grpc"), "activated", "grpc", "kms")
	p.expect("sockets 2")
	want := map[string]bool{}
	for _, s := range []string{path, second} {
		conn, err := net.Dial("unix", s)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	want[fmt.Sprintf("grpc %s %d", path, os.Getpid())] = true
	want[fmt.Sprintf("kms %s %d", second, os.Getpid())] = true
	for range 2 {
		if line := p.line(); !want[line] {
			t.Errorf("the broker: %s", line)
		} else {
			delete(want, line)
		}
	}
	p.end()
	// The socket is systemd's: it is there while no broker runs.
	if err := connect(path); err != nil {
		t.Errorf("the socket after the broker's end: %v", err)
	}
}

// A TCP socket comes with the uids of those who connect.
func TestActivatedTCP(t *testing.T) {
	for name, tc := range map[string]struct {
		domain  int
		at      unix.Sockaddr
		network string
	}{
		"IPv4": {unix.AF_INET, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}, "tcp4"},
		"IPv6": {unix.AF_INET6, &unix.SockaddrInet6{Addr: [16]byte{15: 1}}, "tcp6"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(publicDir(t), "s")
			grpc := socket(t, unix.AF_UNIX, unix.SOCK_STREAM, &unix.SockaddrUnix{Name: path}, true)
			aws := socket(t, tc.domain, unix.SOCK_STREAM, tc.at, true)
			l, err := net.FileListener(aws) // of which the address is asked
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			p := play(t, systemd([]*os.File{grpc, aws}, "LISTEN_PID=self", "LISTEN_FDS=2", "LISTEN_FDNAMES=grpc:aws_kms"), "activated", "grpc", "tcp:aws_kms")
			p.expect("sockets 2")
			if err := connect(path); err != nil {
				t.Fatal(err)
			}
			p.line()
			conn, err := net.Dial(tc.network, l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			p.expect(fmt.Sprintf("aws_kms %s %d true", l.Addr(), os.Geteuid()))
			p.end()
			// The socket is systemd's: it listens while no broker runs.
			again, err := net.Dial(tc.network, l.Addr().String())
			if err != nil {
				t.Fatalf("the socket after the broker's end: %v", err)
			}
			again.Close()
		})
	}
}

func TestNotActivated(t *testing.T) {
	for name, env := range map[string][]string{
		"by hand":                 nil,
		"no sockets":              {"LISTEN_PID=self", "LISTEN_FDS=0", "LISTEN_FDNAMES="},
		"meant for its parent":    {"LISTEN_PID=1", "LISTEN_FDS=1", "LISTEN_FDNAMES=grpc"},
		"a count that is no such": {"LISTEN_PID=self", "LISTEN_FDS=many", "LISTEN_FDNAMES=grpc"},
	} {
		t.Run(name, func(t *testing.T) {
			p := play(t, systemd(nil, env...), "activated", "grpc")
			p.expect("sockets 0")
			p.end()
		})
	}
}

func TestActivatedRefuses(t *testing.T) {
	good := func(t *testing.T) *os.File {
		return socket(t, unix.AF_UNIX, unix.SOCK_STREAM, &unix.SockaddrUnix{Name: filepath.Join(publicDir(t), "s")}, true)
	}
	tcp := func(t *testing.T) *os.File {
		return socket(t, unix.AF_INET, unix.SOCK_STREAM, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}, true)
	}
	for name, tc := range map[string]struct {
		sockets func(t *testing.T) []*os.File
		names   string
		count   string // if it is not that of the sockets
		says    []string
	}{
		"another name":  {sockets: files(good), names: "keybroker.socket", says: []string{`"keybroker.socket"`, "FileDescriptorName", `"grpc"`}},
		"no name":       {sockets: files(good), says: []string{"FileDescriptorName", `"grpc"`}},
		"two of a name": {sockets: files(good, good), names: "grpc:grpc", says: []string{"more than one", `"grpc"`}},
		"the second":    {sockets: files(good, good), names: "grpc:admin", says: []string{`"admin"`}},
		"TCP":           {names: "grpc", says: []string{`"grpc"`, "no unix stream socket"}, sockets: files(tcp)},
		"unix for TCP":  {names: "aws_kms", says: []string{`"aws_kms"`, "no TCP socket"}, sockets: files(good)},
		"UDP for TCP": {names: "aws_kms", says: []string{`"aws_kms"`, "no TCP socket"}, sockets: files(func(t *testing.T) *os.File {
			return socket(t, unix.AF_INET, unix.SOCK_DGRAM, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}, false)
		})},
		"TCP that is only bound": {names: "aws_kms", says: []string{`"aws_kms"`, "Accept=no"}, sockets: files(func(t *testing.T) *os.File {
			return socket(t, unix.AF_INET6, unix.SOCK_STREAM, &unix.SockaddrInet6{Addr: [16]byte{15: 1}}, false)
		})},
		"two of a name, of TCP": {names: "aws_kms:aws_kms", says: []string{"more than one", `"aws_kms"`}, sockets: files(tcp, tcp)},
		"UDP": {names: "grpc", says: []string{`"grpc"`, "no unix stream socket"}, sockets: files(func(t *testing.T) *os.File {
			return socket(t, unix.AF_INET, unix.SOCK_DGRAM, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}, false)
		})},
		"netlink": {names: "grpc", says: []string{`"grpc"`, "no unix stream socket"}, sockets: files(func(t *testing.T) *os.File {
			return socket(t, unix.AF_NETLINK, unix.SOCK_RAW, nil, false)
		})},
		"datagrams": {names: "grpc", says: []string{`"grpc"`, "no unix stream socket"}, sockets: files(func(t *testing.T) *os.File {
			return socket(t, unix.AF_UNIX, unix.SOCK_DGRAM, &unix.SockaddrUnix{Name: filepath.Join(publicDir(t), "s")}, false)
		})},
		"packets": {names: "grpc", says: []string{`"grpc"`, "no unix stream socket"}, sockets: files(func(t *testing.T) *os.File {
			return socket(t, unix.AF_UNIX, unix.SOCK_SEQPACKET, &unix.SockaddrUnix{Name: filepath.Join(publicDir(t), "s")}, true)
		})},
		"abstract": {names: "grpc", says: []string{`"grpc"`, "abstract"}, sockets: files(func(t *testing.T) *os.File {
			return socket(t, unix.AF_UNIX, unix.SOCK_STREAM, &unix.SockaddrUnix{Name: fmt.Sprintf("@keybroker-peer-%d", os.Getpid())}, true)
		})},
		"abstract, as a path": {names: "grpc", says: []string{`"grpc"`, "abstract"}, sockets: files(func(t *testing.T) *os.File {
			return socket(t, unix.AF_UNIX, unix.SOCK_STREAM, &unix.SockaddrUnix{Name: fmt.Sprintf("@/keybroker-peer-%d", os.Getpid())}, true)
		})},
		"one connection": {names: "grpc", says: []string{`"grpc"`, "Accept=no"}, sockets: files(func(t *testing.T) *os.File {
			_, theirs := socketPair(t)
			return theirs
		})},
		"bound only": {names: "grpc", says: []string{`"grpc"`, "Accept=no"}, sockets: files(func(t *testing.T) *os.File {
			return socket(t, unix.AF_UNIX, unix.SOCK_STREAM, &unix.SockaddrUnix{Name: filepath.Join(publicDir(t), "s")}, false)
		})},
		"a file": {names: "grpc", says: []string{"descriptor 3", "no open socket"}, sockets: files(func(t *testing.T) *os.File {
			f, err := os.Open("/dev/null")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			return f
		})},
		"fewer than counted": {sockets: files(good), names: "grpc:admin", count: "3", says: []string{"no open socket", "LISTEN_FDS"}},
	} {
		t.Run(name, func(t *testing.T) {
			sockets := tc.sockets(t)
			count := tc.count
			if count == "" {
				count = fmt.Sprint(len(sockets))
			}
			env := []string{"LISTEN_PID=self", "LISTEN_FDS=" + count}
			if tc.names != "" {
				env = append(env, "LISTEN_FDNAMES="+tc.names)
			}
			p := play(t, systemd(sockets, env...), "activated", "grpc", "tcp:aws_kms")
			said, isError := strings.CutPrefix(p.line(), "error ")
			if !isError {
				t.Fatalf("the broker: %s", said)
			}
			mentions(t, fmt.Errorf("%s", said), append(tc.says, "socket activation")...)
			p.end()
		})
	}
}

func files(open ...func(*testing.T) *os.File) func(*testing.T) []*os.File {
	return func(t *testing.T) (all []*os.File) {
		for _, o := range open {
			all = append(all, o(t))
		}
		return all
	}
}
