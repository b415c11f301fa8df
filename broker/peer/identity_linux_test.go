package peer_test

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keybroker/keybroker/broker/peer"
	"github.com/keybroker/keybroker/broker/policy"
)

// listen returns a Listener on a socket that everybody can connect to.
func listen(t *testing.T, opts peer.Options) *peer.Listener {
	t.Helper()
	return listenOn(t, peer.Config{Path: filepath.Join(publicDir(t), "s"), Mode: 0o666, UID: -1, GID: -1, Options: opts})
}

func listenOn(t *testing.T, cfg peer.Config) *peer.Listener {
	t.Helper()
	l, err := peer.ListenUnix(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// dial connects to l from this process.
func dial(t *testing.T, l *peer.Listener) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// accept returns the next connection. Nothing is accepted before it: what has
// connected waits.
func accept(t *testing.T, l *peer.Listener) *peer.Conn {
	t.Helper()
	stuck := time.AfterFunc(time.Minute, func() { l.Close() })
	defer stuck.Stop()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*peer.Conn)
}

// same fails unless got is want in all that a policy could ask for, and the
// process.
func same(t *testing.T, got, want peer.Identity) {
	t.Helper()
	slices.Sort(got.Groups)
	slices.Sort(want.Groups)
	if got.Network != peer.Unix || got.UID != want.UID || got.GID != want.GID || got.PID != want.PID ||
		got.UIDOverflow != want.UIDOverflow || got.GIDOverflow != want.GIDOverflow || !slices.Equal(got.Groups, want.Groups) {
		t.Fatalf("the caller is %+v, want %+v", got, want)
	}
}

// self is this process.
func self(t *testing.T) peer.Identity {
	t.Helper()
	id := peer.Identity{Network: peer.Unix, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), PID: int32(os.Getpid())}
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups {
		if g != 65534 {
			id.Groups = append(id.Groups, uint32(g))
		}
	}
	return id
}

func (p *process) pid() int32 { return int32(p.cmd.Process.Pid) }

func TestCallerOfThisUser(t *testing.T) {
	l := listen(t, peer.Options{})
	p := play(t, nil, "connect", l.Addr().String(), "1")
	p.expect("connected")
	conn := accept(t, l)
	want := self(t)
	want.PID = p.pid()
	same(t, conn.Peer().Identity, want)
	if err := conn.Peer().Alive(); err != nil {
		t.Errorf("Alive: %v", err)
	}

	needPidfd(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.Peer().Identity.Exe; got != exe {
		t.Errorf("its program is %q, want %q", got, exe)
	}
}

func TestCallerOfAnotherUser(t *testing.T) {
	needRoot(t, "only root can start processes of other users")
	many := make([]uint32, 300)
	for i := range many {
		many[i] = uint32(7000 + i)
	}
	for name, want := range map[string]peer.Identity{
		"no supplementary group":   {UID: 23456, GID: 23457},
		"some":                     {UID: 23456, GID: 23457, Groups: []uint32{0, 6, 7001}},
		"as many as asked for":     {UID: 23456, GID: 23457, Groups: many[:32]},
		"one more":                 {UID: 23456, GID: 23457, Groups: many[:33]},
		"many":                     {UID: 23456, GID: 23457, Groups: many},
		"the greatest id":          {UID: 1<<32 - 2, GID: 1<<32 - 2},
		"root's group":             {UID: 23456, GID: 0},
		"root with another group":  {UID: 0, GID: 23457, Groups: []uint32{1}},
		"the overflow uid":         {UID: 65534, GID: 23457, Groups: []uint32{7001}, UIDOverflow: true},
		"the overflow gid":         {UID: 23456, GID: 65534, Groups: []uint32{7001}, GIDOverflow: true},
		"the overflow gid in some": {UID: 23456, GID: 23457, Groups: []uint32{7001, 65534, 7002}},
	} {
		t.Run(name, func(t *testing.T) {
			l := listen(t, peer.Options{})
			p := play(t, as(want.UID, want.GID, want.Groups...), "connect", l.Addr().String(), "1")
			p.expect("connected")
			want.PID = p.pid()
			want.Groups = slices.DeleteFunc(slices.Clone(want.Groups), func(g uint32) bool { return g == 65534 })
			same(t, accept(t, l).Peer().Identity, want)
		})
	}
}

// A setuid program that drops its rights keeps its connection, and its name.
func TestCallerIsWhoConnected(t *testing.T) {
	needRoot(t, "only root can become another user")
	l := listen(t, peer.Options{})
	p := play(t, nil, "drop", l.Addr().String(), "23456", "23457")
	p.expect("dropped")
	want := self(t)
	want.PID = p.pid()
	same(t, accept(t, l).Peer().Identity, want)
}

func TestCallerIsTheEffectiveUser(t *testing.T) {
	needRoot(t, "only root can become another user")
	l := listen(t, peer.Options{})
	p := play(t, nil, "effective", l.Addr().String(), "23456", "23457")
	p.expect("connected")
	same(t, accept(t, l).Peer().Identity, peer.Identity{UID: 23456, GID: 23457, PID: p.pid()})
}

// Who is root in a user namespace of his own is not root here.
func TestCallerInUserNamespace(t *testing.T) {
	uid, gid := os.Geteuid(), os.Getegid()
	if uid == 0 {
		uid, gid = 23456, 23457
	}
	l := listen(t, peer.Options{})
	p := playInNamespace(t, inNamespace(uid, gid, 0), "connect", l.Addr().String(), "1")
	p.expect("connected")
	id := accept(t, l).Peer().Identity
	if id.UID != uint32(uid) || id.GID != uint32(gid) || id.UIDOverflow || id.PID != p.pid() {
		t.Fatalf("the caller is %+v, want uid %d and gid %d", id, uid, gid)
	}
}

// A broker in a user and pid namespace sees all users outside as one, which no
// client is, and no ids of their processes.
func TestBrokerInUserNamespace(t *testing.T) {
	needRoot(t, "a user outside of the namespace is needed")
	dir := publicDir(t)
	if err := os.Chown(dir, 23458, 23458); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	broker := playInNamespace(t, inNamespace(23458, 23458, unix.CLONE_NEWPID), "serve", path)
	broker.expect("listening")
	id := func() peer.Identity {
		t.Helper()
		var e event
		if err := json.Unmarshal([]byte(broker.line()), &e); err != nil {
			t.Fatal(err)
		}
		if e.Refused != "" {
			t.Fatalf("refused: %s", e.Refused)
		}
		return e.Identity
	}

	play(t, as(23458, 23458), "connect", path, "1").expect("connected")
	same(t, id(), peer.Identity{UID: 0, GID: 0})

	for name, change := range map[string]struct {
		uid, gid uint32
		groups   []uint32
	}{
		"root":                       {0, 0, nil},
		"a user":                     {23456, 23457, []uint32{7001, 7002}},
		"a user in a group of ours":  {23456, 23457, []uint32{23458}},
		"a user whose group is ours": {23456, 23458, nil},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, as(change.uid, change.gid, change.groups...), "connect", path, "1").expect("connected")
			got := id()
			want := peer.Identity{UID: 65534, UIDOverflow: true, GID: 65534, GIDOverflow: true}
			if change.gid == 23458 {
				want.GID, want.GIDOverflow = 0, false
			}
			if len(change.groups) == 1 {
				want.Groups = []uint32{0}
			}
			same(t, got, want)

			p, err := policy.New([]policy.Client{
				{Name: "root", Match: policy.Match{UID: new(uint32(0))}},
				{Name: "wheel", Match: policy.Match{GID: new(uint32(0))}},
			})
			if err != nil {
				t.Fatal(err)
			}
			if c, err := p.Identify(got); !errors.Is(err, policy.ErrNoClient) {
				t.Errorf("the client is %v, %v", c, err)
			}
		})
	}
	broker.end()
}

// Whoever holds a connection, it is that of the process which opened it: as
// long as that one lives, and nobody's after.
func TestConnectionInOtherHands(t *testing.T) {
	needPidfd(t)
	for name, handOver := range map[string]func(t *testing.T, path string) (opener *process, write func()){
		"passed by SCM_RIGHTS": func(t *testing.T, path string) (*process, func()) {
			ours, theirs := socketPair(t)
			opener := play(t, func(c *exec.Cmd) { c.ExtraFiles = []*os.File{theirs} }, "pass", path)
			opener.expect("passed")
			passed := receiveFile(t, ours)
			return opener, func() {
				if _, err := passed.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
			}
		},
		"inherited": func(t *testing.T, path string) (*process, func()) {
			read, write, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { read.Close(); write.Close() }) // with it the heir ends
			opener := play(t, func(c *exec.Cmd) { c.ExtraFiles = []*os.File{read} }, "bequeath", path)
			opener.expect("bequeathed")
			return opener, func() {
				if _, err := write.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := listen(t, peer.Options{})
			opener, write := handOver(t, l.Addr().String())
			conn := accept(t, l)
			want := self(t)
			want.PID = opener.pid()
			same(t, conn.Peer().Identity, want)

			write()
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			if err := conn.Peer().Alive(); err != nil {
				t.Fatalf("Alive while the opener lives: %v", err)
			}
			opener.end()
			// The connection is as good as before, but not for us.
			write()
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			if err := conn.Peer().Alive(); !errors.Is(err, peer.ErrExited) {
				t.Fatalf("Alive once the opener has exited: %v", err)
			}
		})
	}
}

func socketPair(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs = os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

func receiveFile(t *testing.T, from *os.File) *os.File {
	t.Helper()
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(from.Fd()), make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d control messages: %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "passed")
	t.Cleanup(func() { f.Close() })
	return f
}

// A socket made by socketpair(2) has a peer too; one without is refused.
func TestFromUnixConn(t *testing.T) {
	t.Run("a pair", func(t *testing.T) {
		ours, _ := socketPair(t)
		conn, err := net.FileConn(ours)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		p, err := peer.FromUnixConn(conn.(*net.UnixConn))
		if err != nil {
			t.Fatal(err)
		}
		same(t, p.Identity, self(t))
		if err := p.Alive(); err != nil {
			t.Errorf("Alive: %v", err)
		}
		if err := errors.Join(p.Close(), p.Close()); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	t.Run("no peer", func(t *testing.T) {
		conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s")})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		p, err := peer.FromUnixConn(conn)
		if p != nil {
			t.Errorf("it is %+v", p.Identity)
		}
		mentions(t, err, "nobody")
	})
	t.Run("closed", func(t *testing.T) {
		ours, _ := socketPair(t)
		conn, err := net.FileConn(ours)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if p, err := peer.FromUnixConn(conn.(*net.UnixConn)); p != nil || err == nil {
			t.Errorf("%v, %v", p, err)
		}
	})
}

// Calls in flight ask whether the caller lives while the connection is closed.
func TestAliveAndCloseAtOnce(t *testing.T) {
	needPidfd(t)
	l := listen(t, peer.Options{})
	dial(t, l)
	conn := accept(t, l)
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			for conn.Peer().Alive() == nil {
			}
		})
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	calls.Wait()
	if err := conn.Peer().Alive(); !errors.Is(err, peer.ErrExited) {
		t.Errorf("Alive after Close: %v", err)
	}
}

// openFiles counts this process's descriptors.
func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestNoFileIsLeft(t *testing.T) {
	needPidfd(t)
	refused := 0
	l := listen(t, peer.Options{MaxPerUID: 1, Refused: func(peer.Identity, error) { refused++ }})
	round := func() {
		p := play(t, nil, "connect", l.Addr().String(), "1")
		p.expect("connected")
		p.end() // refused
		first, second := dial(t, l), dial(t, l)
		conn := accept(t, l)
		stop := make(chan struct{})
		go func() {
			defer close(stop)
			if _, err := second.Read(make([]byte, 1)); err == nil {
				t.Error("one too many can read")
			}
			first.Close()
			second.Close()
			conn.Close()
			third, err := net.Dial("unix", l.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			third.Close()
		}()
		accept(t, l).Close() // refuses the second before it comes to the third
		<-stop
	}
	round() // what stays open, such as the poller
	before := openFiles(t)
	for range 5 {
		round()
	}
	if after := openFiles(t); after > before {
		t.Errorf("%d files are open, %d were before", after, before)
	}
	if refused != 2*6 {
		t.Errorf("%d connections were refused, want two a round", refused)
	}
}
