package peer_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/keybroker/keybroker/broker/peer"
)

// roles are what other processes do in these tests.
var roles = map[string]func(args []string) error{
	"connect":   roleConnect,
	"tcp":       roleTCP,
	"tcp-drop":  roleTCPDrop,
	"subset":    roleSubset,
	"hasty":     roleHasty,
	"drop":      roleDrop,
	"effective": roleEffective,
	"pass":      rolePass,
	"bequeath":  roleBequeath,
	"hold":      roleHold,
	"serve":     roleServe,
	"give":      roleGive,
	"start":     roleStart,
	"pry":       rolePry,
	"activated": roleActivated,
	"starved":   roleStarved,
	"procless":  roleProcless,
}

// untilEnd waits for the end of the input.
func untilEnd() error {
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// roleConnect connects to PATH N times, and exits at the end of its input.
func roleConnect(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	for range n {
		conn, err := net.Dial("unix", args[0])
		if err != nil {
			return err
		}
		defer conn.Close()
	}
	fmt.Println("connected")
	return untilEnd()
}

// dialTCP connects to an address by a socket of IPv4, or by one of IPv6, which can
// speak IPv4, too. The socket is the process's own until it ends.
func dialTCP(family, address string) (fd int, err error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return -1, err
	}
	domain, sockaddr := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
	if family == "4" {
		domain, sockaddr = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	if fd, err = unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, err
	}
	return fd, unix.Connect(fd, sockaddr)
}

// roleTCP connects to ADDRESS by sockets of FAMILY N times, and exits at the end
// of its input.
func roleTCP(args []string) error {
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	for range n {
		if _, err := dialTCP(args[0], args[1]); err != nil {
			return err
		}
	}
	fmt.Println("connected")
	return untilEnd()
}

// roleTCPDrop connects to ADDRESS and then becomes UID and GID for good.
func roleTCPDrop(args []string) error {
	if _, err := dialTCP("4", args[0]); err != nil {
		return err
	}
	uid, gid, err := twoInts(args[1:])
	if err != nil {
		return err
	}
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(gid), syscall.Setuid(uid)); err != nil {
		return err
	}
	fmt.Println("dropped")
	return untilEnd()
}

// roleHasty connects to itself and closes at once, many times. It is not root, so
// nobody who connects is.
func roleHasty([]string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	local := peer.LocalTCP(l, peer.Options{})
	const n = 300
	done := make(chan error, 1)
	go func() {
		for range n {
			fd, err := dialTCP("4", l.Addr().String())
			if err := errors.Join(err, unix.Close(fd)); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for range n {
		conn, err := local.Accept()
		if err != nil {
			return err
		}
		if id := peer.TCPIdentity(conn); id.UIDKnown && id.UID != uint32(os.Geteuid()) {
			return fmt.Errorf("the caller is %v", id)
		}
		if err := conn.Close(); err != nil {
			return err
		}
	}
	if err := errors.Join(<-done, local.Close()); err != nil {
		return err
	}
	fmt.Println("well")
	return untilEnd()
}

// roleSubset has a /proc as a unit with ProcSubset=pid has it, and accepts a
// connection of its own.
func roleSubset([]string) error {
	err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if err == nil {
		err = unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "subset=pid,hidepid=invisible")
	}
	if err != nil {
		fmt.Println("mount:", err)
		return untilEnd()
	}
	if _, err := os.Stat("/proc/sys"); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("/proc/sys is there: %w", err)
	}
	fmt.Println("mounted")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	local := peer.LocalTCP(l, peer.Options{})
	if _, err := dialTCP("4", l.Addr().String()); err != nil {
		return err
	}
	conn, err := local.Accept()
	if err != nil {
		return err
	}
	id := peer.TCPIdentity(conn)
	fmt.Println(id.UID, id.UIDKnown)
	return errors.Join(conn.Close(), local.Close(), untilEnd())
}

// roleDrop connects to PATH and then becomes UID and GID for good.
func roleDrop(args []string) error {
	conn, err := net.Dial("unix", args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	uid, gid, err := twoInts(args[1:])
	if err != nil {
		return err
	}
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(gid), syscall.Setuid(uid)); err != nil {
		return err
	}
	fmt.Println("dropped")
	return untilEnd()
}

// roleEffective becomes UID and GID in effect only, and then connects to PATH.
func roleEffective(args []string) error {
	uid, gid, err := twoInts(args[1:])
	if err != nil {
		return err
	}
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setregid(-1, gid), syscall.Setreuid(-1, uid)); err != nil {
		return err
	}
	return roleConnect([]string{args[0], "1"})
}

func twoInts(args []string) (a, b int, err error) {
	a, errA := strconv.Atoi(args[0])
	b, errB := strconv.Atoi(args[1])
	return a, b, errors.Join(errA, errB)
}

// rolePass connects to PATH and hands the connection to whoever has the other
// end of descriptor 3.
func rolePass(args []string) error {
	conn, err := net.Dial("unix", args[0])
	if err != nil {
		return err
	}
	f, err := conn.(*net.UnixConn).File()
	if err != nil {
		return err
	}
	if err := unix.Sendmsg(3, []byte("x"), unix.UnixRights(int(f.Fd())), nil, 0); err != nil {
		return err
	}
	fmt.Println("passed")
	return untilEnd()
}

// roleBequeath connects to PATH and starts a process that inherits the
// connection and lives on.
func roleBequeath(args []string) error {
	conn, err := net.Dial("unix", args[0])
	if err != nil {
		return err
	}
	f, err := conn.(*net.UnixConn).File()
	if err != nil {
		return err
	}
	heir := exec.Command("/proc/self/exe")
	heir.Env = append(os.Environ(), roleEnv+"=hold")
	heir.ExtraFiles = []*os.File{f, os.NewFile(3, "life")} // its 3 and 4
	if err := heir.Start(); err != nil {
		return err
	}
	fmt.Println("bequeathed")
	return untilEnd()
}

// roleHold writes to descriptor 3 what comes from descriptor 4.
func roleHold([]string) error {
	_, err := io.Copy(os.NewFile(3, "connection"), os.NewFile(4, "life"))
	return err
}

// event is what the role serve sees: a caller, or a refusal.
type event struct {
	Identity peer.Identity
	Refused  string
}

// roleServe serves PATH and writes an event for each connection.
func roleServe(args []string) error {
	out := json.NewEncoder(os.Stdout)
	l, err := peer.ListenUnix(peer.Config{Path: args[0], Mode: 0o666, UID: -1, GID: -1, Options: peer.Options{
		Refused: func(id peer.Identity, err error) { _ = out.Encode(event{id, err.Error()}) },
	}})
	if err != nil {
		return err
	}
	fmt.Println("listening")
	done := make(chan error, 1)
	go func() {
		for {
			conn, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				err = nil
			}
			if err != nil || conn == nil {
				done <- err
				return
			}
			_ = out.Encode(event{Identity: conn.(*peer.Conn).Peer().Identity})
			defer conn.Close()
		}
	}()
	return errors.Join(untilEnd(), l.Close(), <-done)
}

// roleGive listens on PATH with the owner UID and GID, and writes the error.
func roleGive(args []string) error {
	uid, gid, err := twoInts(args[1:])
	if err != nil {
		return err
	}
	_, err = peer.ListenUnix(peer.Config{Path: args[0], Mode: 0o600, UID: uid, GID: gid})
	fmt.Println(err)
	return untilEnd()
}

// roleStart waits for a line, tries N times at once to listen on PATH, and
// writes how often it could. What else than ErrInUse came is its error.
func roleStart(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	fmt.Println("waiting")
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	errs := make([]error, n)
	var won atomic.Int32
	var tries sync.WaitGroup
	for i := range n {
		tries.Go(func() {
			_, err := peer.ListenUnix(peer.Config{Path: args[0], Mode: 0o600, UID: -1, GID: -1})
			switch {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, peer.ErrInUse):
				errs[i] = err
			}
		})
	}
	tries.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Println("won", won.Load())
	_, err = io.Copy(io.Discard, in)
	return err
}

// seenEnough is how many sockets rolePry wants to have met.
const seenEnough = 1000

// rolePry tries all the time to connect to PATH and to where it is made, and
// looks whether it has MODE, UID and GID. It writes whatever is not as it should
// be, and "seen" once that it has met enough sockets.
func rolePry(args []string) error {
	path := args[0]
	want := strings.Join(args[1:], " ")
	private := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new", "s")
	var ended atomic.Bool
	go func() {
		_ = untilEnd()
		ended.Store(true)
	}()
	fmt.Println("prying")
	var last unix.Stat_t
	for met := 0; !ended.Load(); {
		for _, p := range []string{path, private} {
			if err := connect(p); err == nil {
				fmt.Println("connected to", p)
			}
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			continue
		}
		if got := fmt.Sprintf("%o %d %d", st.Mode&0o7777, st.Uid, st.Gid); got != want {
			fmt.Println("met it as", got)
		}
		if st.Ino != last.Ino || st.Ctim != last.Ctim {
			last = st
			if met++; met == seenEnough {
				fmt.Println("seen")
			}
		}
	}
	return nil
}

// connect tries to connect once.
func connect(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrUnix{Name: path})
}

// roleActivated takes the sockets called ARGS from systemd, which is the test;
// those called tcp:NAME are of TCP.
func roleActivated(args []string) error {
	if os.Getenv("LISTEN_PID") == "self" { // known to nobody before
		if err := os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid())); err != nil {
			return err
		}
	}
	var unixNames, tcpNames []string
	for _, name := range args {
		if tcp, ok := strings.CutPrefix(name, "tcp:"); ok {
			tcpNames = append(tcpNames, tcp)
		} else {
			unixNames = append(unixNames, name)
		}
	}
	sockets, err := peer.Activated(peer.Options{}, unixNames, tcpNames)
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		if _, ok := os.LookupEnv(name); ok {
			return fmt.Errorf("%s is still set", name)
		}
	}
	if err != nil {
		fmt.Println("error", strings.ReplaceAll(err.Error(), "\n", " "))
		return untilEnd()
	}
	fmt.Println("sockets", len(sockets.Unix)+len(sockets.TCP))
	for name, l := range sockets.Unix {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		fmt.Println(name, l.Addr(), conn.(*peer.Conn).Peer().Identity.PID)
		if err := errors.Join(conn.Close(), l.Close(), l.Close()); err != nil {
			return err
		}
	}
	for name, l := range sockets.TCP {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		id := peer.TCPIdentity(conn)
		fmt.Println(name, l.Addr(), id.UID, id.UIDKnown)
		if err := errors.Join(conn.Close(), l.Close()); err != nil {
			return err
		}
	}
	again, err := peer.Activated(peer.Options{}, unixNames, tcpNames)
	if len(again.Unix)+len(again.TCP) != 0 || err != nil {
		return fmt.Errorf("a second time: %v, %w", again, err)
	}
	return untilEnd()
}

// toChannel is a slog.Handler that sends the messages.
type toChannel struct {
	slog.Handler
	messages chan string
}

func (h toChannel) Handle(_ context.Context, r slog.Record) error {
	h.messages <- r.Message
	return nil
}

func (toChannel) Enabled(context.Context, slog.Level) bool { return true }

// roleStarved accepts in DIR while no more files can be opened, and after.
func roleStarved(args []string) error {
	refusals := make(chan error, 16)
	open := func(name string) (l *peer.Listener, messages chan string, waiting net.Conn, err error) {
		messages = make(chan string, 16)
		l, err = peer.ListenUnix(peer.Config{Path: filepath.Join(args[0], name), Mode: 0o600, UID: -1, GID: -1, Options: peer.Options{
			Logger:  slog.New(toChannel{messages: messages}),
			Refused: func(_ peer.Identity, err error) { refusals <- err },
		}})
		if err != nil {
			return nil, nil, nil, err
		}
		waiting, err = net.Dial("unix", l.Addr().String())
		return l, messages, waiting, err
	}
	one, oneSays, oneWaits, err := open("one")
	if err != nil {
		return err
	}
	defer oneWaits.Close()
	two, twoSays, twoWaits, err := open("two")
	if err != nil {
		return err
	}
	defer twoWaits.Close()

	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	next, err := unix.Open("/", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	unix.Close(next)
	allow := func(more int) error {
		return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(next + more), Max: limit.Max})
	}

	// None for the connection: Accept says that it may pass.
	if err := allow(0); err != nil {
		return err
	}
	_, err = one.Accept()
	var temporary net.Error
	if !errors.Is(err, unix.EMFILE) || !errors.As(err, &temporary) || !temporary.Temporary() || temporary.Timeout() { //nolint:staticcheck // servers ask for it
		return fmt.Errorf("Accept without files: %w", err)
	}
	fmt.Println("Accept:", <-oneSays)

	// grpc-go waits, and serves once there are files.
	server := grpc.NewServer()
	served := make(chan error, 1)
	go func() { served <- server.Serve(two) }()
	fmt.Println("Serve:", <-twoSays)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if _, err := io.WriteString(twoWaits, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
		return err
	}
	if _, err := io.ReadFull(twoWaits, make([]byte, 9)); err != nil {
		return err
	}
	fmt.Println("answered")
	server.Stop()
	if err := <-served; err != nil {
		return err
	}

	// One for the connection, none for its process: it is refused.
	if next, err = unix.Open("/", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	unix.Close(next)
	if err := allow(1); err != nil {
		return err
	}
	accepted := make(chan error, 1)
	go func() {
		_, err := one.Accept()
		accepted <- err
	}()
	if err := <-refusals; !errors.Is(err, unix.EMFILE) {
		return fmt.Errorf("refused: %w", err)
	}
	fmt.Println("refused")
	if err := one.Close(); err != nil {
		return err
	}
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		return err
	}
	return untilEnd()
}

// roleProcless hides /proc and listens in DIR.
func roleProcless(args []string) error {
	err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if err == nil {
		err = unix.Mount("none", "/proc", "tmpfs", 0, "")
	}
	if err != nil {
		fmt.Println("mount:", err)
		return untilEnd()
	}
	fmt.Println("hidden")
	l, err := peer.ListenUnix(peer.Config{Path: args[0] + "/short", Mode: 0o600, UID: -1, GID: -1})
	if err != nil {
		return err
	}
	conn, err := net.Dial("unix", args[0]+"/short")
	if err != nil {
		return err
	}
	accepted, err := l.Accept()
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(accepted.(*peer.Conn).Peer().Identity); err != nil {
		return err
	}
	if err := errors.Join(conn.Close(), accepted.Close(), l.Close()); err != nil {
		return err
	}
	long := args[0] + "/" + strings.Repeat("l", peer.MaxPath-len(args[0])-1)
	_, err = peer.ListenUnix(peer.Config{Path: long, Mode: 0o600, UID: -1, GID: -1})
	fmt.Println(err)
	return untilEnd()
}
