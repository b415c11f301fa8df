package peer_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keybroker/keybroker/broker/peer"
)

// listenTCP returns a TCPListener on a free port of address.
func listenTCP(t *testing.T, address string, opts peer.Options) *peer.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	local := peer.LocalTCP(l, opts)
	t.Cleanup(func() { local.Close() })
	return local
}

// reach is the address of host at l's port.
func reach(l *peer.TCPListener, host string) string {
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return net.JoinHostPort(host, port)
}

// acceptTCP returns the next connection.
func acceptTCP(t *testing.T, l *peer.TCPListener) net.Conn {
	t.Helper()
	stuck := time.AfterFunc(time.Minute, func() { l.Close() })
	defer stuck.Stop()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// families are the ways to reach a listener on a loopback address.
var families = map[string]struct{ listen, family, host string }{
	"IPv4":                           {"127.0.0.1", "4", "127.0.0.1"},
	"IPv4, another loopback address": {"127.1.2.3", "4", "127.1.2.3"},
	"IPv6":                           {"::1", "6", "::1"},
	"IPv4 by a socket of IPv6":       {"127.0.0.1", "6", "::ffff:127.0.0.1"},
	"IPv4 to a listener of both":     {"::", "4", "127.0.0.1"},
	"IPv6 to a listener of both":     {"::", "6", "::1"},
	"IPv4 by IPv6 to one of both":    {"::", "6", "::ffff:127.0.0.1"},
}

func TestTCPCallerOfThisUser(t *testing.T) {
	for name, tc := range families {
		t.Run(name, func(t *testing.T) {
			l := listenTCP(t, tc.listen, peer.Options{})
			fd, err := dialTCP(tc.family, reach(l, tc.host))
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			conn := acceptTCP(t, l)
			want := peer.Identity{Network: peer.AWS, UID: uint32(os.Geteuid()), UIDKnown: true, Addr: conn.RemoteAddr().String()}
			if id := peer.TCPIdentity(conn); !sameTCP(id, want) {
				t.Errorf("%+v, want %+v", id, want)
			}
		})
	}
}

func sameTCP(a, b peer.Identity) bool {
	return a.Network == b.Network && a.UID == b.UID && a.UIDKnown == b.UIDKnown && a.UIDOverflow == b.UIDOverflow &&
		a.Addr == b.Addr && a.AccessKeyID == b.AccessKeyID && a.GID == 0 && a.PID == 0
}

func TestTCPCallersOfOtherUsers(t *testing.T) {
	needRoot(t, "only root can start processes of other users")
	for name, tc := range families {
		t.Run(name, func(t *testing.T) {
			l := listenTCP(t, tc.listen, peer.Options{})
			for _, uid := range []uint32{23456, 0, 4294967293, 23457} {
				p := play(t, as(uid, 23456), "tcp", tc.family, reach(l, tc.host), "1")
				p.expect("connected")
				if id := peer.TCPIdentity(acceptTCP(t, l)); !id.UIDKnown || id.UID != uid || id.UIDOverflow {
					t.Errorf("uid %d: %+v", uid, id)
				}
				p.end()
			}
		})
	}
}

// The user is who made the socket, whatever becomes of him.
func TestTCPCallerThatChangesItsUser(t *testing.T) {
	needRoot(t, "only root can change its user")
	l := listenTCP(t, "127.0.0.1", peer.Options{})
	p := play(t, nil, "tcp-drop", l.Addr().String(), "23456", "23457")
	p.expect("dropped")
	if id := peer.TCPIdentity(acceptTCP(t, l)); !id.UIDKnown || id.UID != 0 {
		t.Errorf("%+v", id)
	}
	p.end()
}

func TestTCPOverflowUID(t *testing.T) {
	needRoot(t, "only root can be the overflow uid")
	l := listenTCP(t, "127.0.0.1", peer.Options{})
	p := play(t, as(65534, 65534), "tcp", "4", l.Addr().String(), "1")
	p.expect("connected")
	if id := peer.TCPIdentity(acceptTCP(t, l)); !id.UIDKnown || id.UID != 65534 || !id.UIDOverflow {
		t.Errorf("%+v", id)
	}
	p.end()
}

// A socket that is closed reads as root's, which it must never be taken for.
func TestTCPCallerThatIsGone(t *testing.T) {
	for name, leave := range map[string]func(t *testing.T, conn *net.TCPConn){
		"closed":      func(t *testing.T, conn *net.TCPConn) { check(t, conn.Close()) },
		"half closed": func(t *testing.T, conn *net.TCPConn) { check(t, conn.CloseWrite()) },
		"reset": func(t *testing.T, conn *net.TCPConn) {
			check(t, conn.SetLinger(0))
			check(t, conn.Close())
		},
		"closed behind what was not read": func(t *testing.T, conn *net.TCPConn) {
			raw, err := conn.SyscallConn()
			check(t, err)
			check(t, raw.Write(func(fd uintptr) bool {
				for chunk := make([]byte, 1<<20); err == nil; {
					_, err = unix.Write(int(fd), chunk)
				}
				return true
			}))
			if !errors.Is(err, unix.EAGAIN) { // the window is full
				t.Fatal(err)
			}
			check(t, conn.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := listenTCP(t, "127.0.0.1", peer.Options{})
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			leave(t, conn.(*net.TCPConn))
			if id := peer.TCPIdentity(acceptTCP(t, l)); id.UIDKnown || id.UID != 0 || id.Network != peer.AWS || id.Addr == "" {
				t.Errorf("%+v", id)
			}
		})
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Callers that connect and close at once, as another user, are that user or
// nobody.
func TestTCPCallersThatCloseWhileTheyAreLookedUp(t *testing.T) {
	if os.Geteuid() == 0 {
		// So that root is somebody else.
		p := play(t, as(23456, 23456), "hasty")
		p.expect("well")
		p.end()
		return
	}
	check(t, roleHasty(nil))
}

// A caller from another address than loopback is unknown, even if it is on this
// host.
func TestTCPCallerFromAfar(t *testing.T) {
	addresses, err := net.InterfaceAddrs()
	check(t, err)
	for _, a := range addresses {
		ip := a.(*net.IPNet).IP
		if !ip.IsGlobalUnicast() {
			continue
		}
		l := listenTCP(t, ip.String(), peer.Options{})
		conn, err := net.Dial("tcp", l.Addr().String())
		check(t, err)
		defer conn.Close()
		if id := peer.TCPIdentity(acceptTCP(t, l)); id.UIDKnown || id.Addr != conn.LocalAddr().String() {
			t.Errorf("%+v", id)
		}
		return
	}
	t.Skip("this host has only loopback addresses")
}

// A unit with ProcSubset=pid and ProtectProc=invisible has the tables.
func TestTCPSubsetOfProc(t *testing.T) {
	needRoot(t, "only root can mount /proc")
	p := playInNamespace(t, func(c *exec.Cmd) {
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID}
	}, "subset")
	if line := p.line(); line != "mounted" {
		t.Skip(line)
	}
	p.expect("0 true")
	p.end()
}

func TestTCPNoMoreThanMaxPerUID(t *testing.T) {
	needRoot(t, "only root can start processes of other users")
	refused := make(chan refusal, 100)
	var log bytes.Buffer
	l := listenTCP(t, "127.0.0.1", peer.Options{
		MaxPerUID: 2, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Refused: func(id peer.Identity, err error) { refused <- refusal{id, err} },
	})
	accepted := make(chan net.Conn, 100)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
				return
			}
			accepted <- conn
		}
	})
	defer func() {
		l.Close()
		accepting.Wait()
		close(accepted)
		for conn := range accepted {
			conn.Close()
		}
		if !strings.Contains(log.String(), peer.ErrTooMany.Error()) || !strings.Contains(log.String(), "uid 23456") {
			t.Errorf("the log: %s", log.String())
		}
	}()
	p := play(t, as(23456, 23456), "tcp", "4", l.Addr().String(), "3")
	p.expect("connected")
	one, two := receive(t, accepted), receive(t, accepted)
	if r := receive(t, refused); !errors.Is(r.err, peer.ErrTooMany) || r.id.UID != 23456 || !r.id.UIDKnown {
		t.Errorf("refused: %+v", r)
	}
	// Others are not counted with him.
	other := play(t, as(23457, 23457), "tcp", "4", l.Addr().String(), "1")
	other.expect("connected")
	if id := peer.TCPIdentity(receive(t, accepted)); id.UID != 23457 {
		t.Errorf("%+v", id)
	}
	// Who leaves is no longer counted, once.
	check(t, one.Close())
	if err := one.Close(); err == nil {
		t.Error("closed twice")
	}
	third := play(t, as(23456, 23456), "tcp", "4", l.Addr().String(), "2")
	third.expect("connected")
	receive(t, accepted)
	if r := receive(t, refused); !errors.Is(r.err, peer.ErrTooMany) {
		t.Errorf("refused: %+v", r)
	}
	check(t, two.Close())
	for _, p := range []*process{p, other, third} {
		p.end()
	}
}

// All whose user is not known count as one.
func TestTCPMaxOfUnknownCallers(t *testing.T) {
	opts, refused := reporting(2)
	l := listenTCP(t, "127.0.0.1", opts)
	for range 2 {
		conn, err := net.Dial("tcp", l.Addr().String())
		check(t, err)
		check(t, conn.Close())
		if id := peer.TCPIdentity(acceptTCP(t, l)); id.UIDKnown {
			t.Errorf("%+v", id)
		}
	}
	gone, err := net.Dial("tcp", l.Addr().String())
	check(t, err)
	check(t, gone.Close())
	here, err := net.Dial("tcp", l.Addr().String())
	check(t, err)
	defer here.Close()
	if id := peer.TCPIdentity(acceptTCP(t, l)); !id.UIDKnown {
		t.Errorf("%+v", id)
	}
	if r := receive(t, refused); !errors.Is(r.err, peer.ErrTooMany) || r.id.UIDKnown || r.id.Addr != gone.LocalAddr().String() {
		t.Errorf("refused: %+v", r)
	}
}

// The identity goes through TLS, and to the handler of an HTTP server, which can
// still close one direction.
func TestTCPIdentityInAServer(t *testing.T) {
	type key struct{}
	for name, config := range map[string]*tls.Config{"plain": nil, "TLS": {Certificates: []tls.Certificate{selfSigned(t)}, MinVersion: tls.VersionTLS13}} {
		t.Run(name, func(t *testing.T) {
			l := net.Listener(listenTCP(t, "127.0.0.1", peer.Options{}))
			scheme := "http"
			if config != nil {
				l, scheme = tls.NewListener(l, config), "https"
			}
			server := &http.Server{
				ReadHeaderTimeout: time.Minute,
				ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
					return context.WithValue(ctx, key{}, peer.TCPIdentity(conn))
				},
				Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					id := r.Context().Value(key{}).(peer.Identity)
					if id.Addr != r.RemoteAddr {
						t.Errorf("%s, but %s", id.Addr, r.RemoteAddr)
					}
					id.Addr = "there"
					_, _ = io.WriteString(w, id.String())
				}),
			}
			served := make(chan error, 1)
			go func() { served <- server.Serve(l) }()
			client := &http.Client{Transport: &http.Transport{
				DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
			}}
			answer, err := client.Get(scheme + "://" + l.Addr().String())
			check(t, err)
			body, err := io.ReadAll(answer.Body)
			check(t, errors.Join(err, answer.Body.Close()))
			if got, want := string(body), (peer.Identity{Network: peer.AWS, UID: uint32(os.Geteuid()), UIDKnown: true, Addr: "there"}).String(); got != want {
				t.Errorf("%s, want %s", got, want)
			}
			check(t, server.Close())
			if err := <-served; !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		})
	}
}

// Of a connection that no TCPListener accepted nobody is known.
func TestTCPIdentityOfOthers(t *testing.T) {
	one, other := net.Pipe()
	defer one.Close()
	defer other.Close()
	if id := peer.TCPIdentity(one); !sameTCP(id, peer.Identity{Network: peer.AWS, Addr: "pipe"}) {
		t.Errorf("%+v", id)
	}
	if id := peer.TCPIdentity(tls.Server(one, nil)); !sameTCP(id, peer.Identity{Network: peer.AWS, Addr: "pipe"}) {
		t.Errorf("%+v", id)
	}
}

// What is no TCP is refused.
func TestLocalTCPOfAnotherKind(t *testing.T) {
	refused := make(chan refusal, 1)
	u, err := net.Listen("unix", publicDir(t)+"/s")
	check(t, err)
	l := peer.LocalTCP(u, peer.Options{Refused: func(id peer.Identity, err error) { refused <- refusal{id, err} }})
	done := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		done <- err
	}()
	conn, err := net.Dial("unix", u.Addr().String())
	check(t, err)
	defer conn.Close()
	if r := receive(t, refused); r.err == nil || !strings.Contains(r.err.Error(), "TCP") {
		t.Errorf("%+v", r)
	}
	check(t, l.Close())
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
