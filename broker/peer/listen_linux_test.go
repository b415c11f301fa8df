package peer_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keybroker/keybroker/broker/peer"
)

// config is a socket at path that belongs to this process.
func config(path string) peer.Config {
	return peer.Config{Path: path, Mode: 0o600, UID: -1, GID: -1}
}

// setUmask sets the umask for one test. No test here runs beside another.
func setUmask(t *testing.T, mask int) {
	t.Helper()
	before := syscall.Umask(mask)
	t.Cleanup(func() { syscall.Umask(before) })
}

// appearance is a file's mode and owner as stat(1) shows them.
func appearance(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

func TestModeAndOwner(t *testing.T) {
	own := fmt.Sprintf("%d:%d", os.Geteuid(), os.Getegid())
	for name, tc := range map[string]struct {
		mode     fs.FileMode
		uid, gid int
		umask    int
		dirGID   int // of a set-group-id directory
		want     string
		root     bool
	}{
		"open umask":                {mode: 0o660, uid: -1, gid: -1, umask: 0, want: "140660 " + own},
		"usual umask":               {mode: 0o666, uid: -1, gid: -1, umask: 0o22, want: "140666 " + own},
		"closed umask":              {mode: 0o666, uid: -1, gid: -1, umask: 0o777, want: "140666 " + own},
		"more than permissions":     {mode: fs.ModeSetuid | fs.ModeSticky | 0o600, uid: -1, gid: -1, want: "140600 " + own},
		"a group":                   {mode: 0o660, uid: -1, gid: 23457, want: "140660 0:23457", root: true},
		"a user":                    {mode: 0o600, uid: 23456, gid: -1, want: "140600 23456:0", root: true},
		"a user and a group":        {mode: 0o660, uid: 23456, gid: 23457, umask: 0o77, want: "140660 23456:23457", root: true},
		"directory gives a group":   {mode: 0o660, uid: -1, gid: -1, dirGID: 23459, want: "140660 0:0", root: true},
		"another than the dir's":    {mode: 0o660, uid: -1, gid: 23457, dirGID: 23459, want: "140660 0:23457", root: true},
		"exactly that of the dir's": {mode: 0o660, uid: -1, gid: 23459, dirGID: 23459, want: "140660 0:23459", root: true},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.root {
				needRoot(t, "only root can give files away")
			}
			dir := publicDir(t)
			if tc.dirGID != 0 {
				if err := errors.Join(os.Chown(dir, 0, tc.dirGID), os.Chmod(dir, fs.ModeSetgid|0o755)); err != nil {
					t.Fatal(err)
				}
			}
			setUmask(t, tc.umask)
			path := filepath.Join(dir, "s")
			l := listenOn(t, peer.Config{Path: path, Mode: tc.mode, UID: tc.uid, GID: tc.gid})
			if got := appearance(t, path); got != tc.want {
				t.Errorf("the socket is %s, want %s", got, tc.want)
			}
			if got := appearance(t, path+".lock"); !strings.HasPrefix(got, "100600 ") {
				t.Errorf("the lock is %s", got)
			}
			if got := names(t, dir); got != "s s.lock" {
				t.Errorf("the directory has %s", got)
			}
			if got := l.Addr(); got.Network() != "unix" || got.String() != path {
				t.Errorf("the address is %s %s", got.Network(), got)
			}
			dial(t, l)
			accept(t, l)
		})
	}
}

// Another user tries all the time, in the place and where it is made, and looks
// at the socket whenever there is one.
func TestNobodyConnectsBeforeItIsReady(t *testing.T) {
	needRoot(t, "another user must try")
	setUmask(t, 0)
	path := filepath.Join(publicDir(t), "s")
	cfg := peer.Config{Path: path, Mode: 0o620, UID: 23460, GID: 23461}
	other := play(t, as(23456, 23457), "pry", path, "620", "23460", "23461")
	other.expect("prying")
	seen := make(chan bool, 1)
	go func() { seen <- other.out.Scan() && other.out.Text() == "seen" }()
	for {
		select {
		case ok := <-seen:
			if !ok {
				t.Errorf("the other user %s", other.out.Text())
			}
			other.end()
			return
		default:
			l, err := peer.ListenUnix(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(publicDir(t), "s")
	p := play(t, nil, "serve", path)
	p.expect("listening")
	p.kill()
	if got, want := names(t, filepath.Dir(path)), "s s.lock"; got != want {
		t.Fatalf("kill -9 left %s, want %s", got, want)
	}
	l := listenOn(t, config(path))
	dial(t, l)
	accept(t, l)
}

// A crash at any point of the making leaves nothing that the next start does not
// clear.
func TestHalfMadeSocketIsCleared(t *testing.T) {
	for name, leave := range map[string]func(t *testing.T, private string){
		"a directory": func(*testing.T, string) {},
		"a socket in it": func(t *testing.T, private string) {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(private, "s")})
			if err != nil {
				t.Fatal(err)
			}
			l.SetUnlinkOnClose(false)
			l.Close()
		},
		"without permissions": func(t *testing.T, private string) {
			if err := os.Chmod(private, 0); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := publicDir(t)
			private := filepath.Join(dir, ".s.new")
			if err := os.Mkdir(private, 0o700); err != nil {
				t.Fatal(err)
			}
			leave(t, private)
			listenOn(t, config(filepath.Join(dir, "s")))
			if got := names(t, dir); got != "s s.lock" {
				t.Errorf("the directory has %s", got)
			}
		})
	}
}

func TestLiveSocketIsNotStolen(t *testing.T) {
	for name, serve := range map[string]func(t *testing.T, path string){
		"a broker": func(t *testing.T, path string) { play(t, nil, "serve", path).expect("listening") },
		"a broker whose lock file was removed": func(t *testing.T, path string) {
			play(t, nil, "serve", path).expect("listening")
			if err := os.Remove(path + ".lock"); err != nil {
				t.Fatal(err)
			}
		},
		"a broker that is starting": func(t *testing.T, path string) {
			lock, err := os.Create(path + ".lock")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { lock.Close() })
			if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
				t.Fatal(err)
			}
		},
		"another program": func(t *testing.T, path string) {
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		},
		"one that does not accept": func(t *testing.T, path string) {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Close(fd) })
			if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
				t.Fatal(err)
			}
			conn, err := net.Dial("unix", path) // its queue is full now
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
		},
		"one for datagrams": func(t *testing.T, path string) {
			conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(publicDir(t), "s")
			serve(t, path)
			before, _ := os.Lstat(path)
			for range 2 {
				l, err := peer.ListenUnix(config(path))
				if !errors.Is(err, peer.ErrInUse) {
					t.Fatalf("ListenUnix: %v, %v", l, err)
				}
				mentions(t, err, path, "stop it")
			}
			if after, _ := os.Lstat(path); before != nil && !os.SameFile(before, after) {
				t.Error("the socket is another one")
			}
			if _, err := os.Lstat(filepath.Join(filepath.Dir(path), ".s.new")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the private directory: %v", err)
			}
		})
	}
}

// Many brokers start at the same time, beside the socket of one that was
// killed: one serves.
func TestOneOfManyStarts(t *testing.T) {
	path := filepath.Join(publicDir(t), "s")
	for range 3 {
		brokers := make([]*process, 6)
		for i := range brokers {
			brokers[i] = play(t, nil, "start", path, "8")
			brokers[i].expect("waiting")
		}
		for _, p := range brokers {
			p.say("start")
		}
		won := 0
		for _, p := range brokers {
			n, err := strconv.Atoi(strings.TrimPrefix(p.line(), "won "))
			if err != nil {
				t.Fatal(err)
			}
			won += n
		}
		if won != 1 {
			t.Fatalf("%d starts won", won)
		}
		if err := connect(path); err != nil {
			t.Errorf("nobody serves: %v", err)
		}
		for _, p := range brokers {
			p.kill()
		}
	}
}

// What is in the way and no socket stays as it is.
func TestOnlySocketsAreRemoved(t *testing.T) {
	file := func(t *testing.T, path string) {
		if err := os.WriteFile(path, []byte("precious"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target string) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			if err := os.Symlink(target, path); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir := func(t *testing.T, path string) {
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		file(t, filepath.Join(path, "s"))
	}
	fifo := func(t *testing.T, path string) {
		if err := unix.Mkfifo(path, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	stale := func(t *testing.T, path string) {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
	}
	for name, tc := range map[string]struct {
		at   string // beside the socket s
		make func(t *testing.T, path string)
	}{
		"socket: a file":             {"s", file},
		"socket: a directory":        {"s", dir},
		"socket: a fifo":             {"s", fifo},
		"socket: a dangling link":    {"s", link("nothing")},
		"socket: a link to a file":   {"s", link("victim")},
		"socket: a link to a socket": {"s", link("stale")},
		"lock: a directory":          {"s.lock", dir},
		"lock: a fifo":               {"s.lock", fifo},
		"lock: a socket":             {"s.lock", stale},
		"lock: a dangling link":      {"s.lock", link("nothing")},
		"lock: a link to a file":     {"s.lock", link("victim")},
		"lock: a link to a lock":     {"s.lock", link("other.lock")},
		"private: a file":            {".s.new", file},
		"private: a full directory":  {".s.new", dir},
		"private: a link to a dir":   {".s.new", link("dir")},
	} {
		t.Run(name, func(t *testing.T) {
			d := publicDir(t)
			file(t, filepath.Join(d, "victim"))
			file(t, filepath.Join(d, "other.lock"))
			stale(t, filepath.Join(d, "stale"))
			if err := os.Mkdir(filepath.Join(d, "dir"), 0o755); err != nil {
				t.Fatal(err)
			}
			stale(t, filepath.Join(d, "dir", "s"))
			tc.make(t, filepath.Join(d, tc.at))
			look := func() (all []string) {
				err := filepath.WalkDir(d, func(path string, e fs.DirEntry, err error) error {
					if err != nil {
						return err
					}
					text := ""
					if e.Type().IsRegular() {
						b, err := os.ReadFile(path)
						if err != nil {
							return err
						}
						text = string(b)
					}
					if e.Name() != "s.lock" || text != "" || !e.Type().IsRegular() { // the lock itself stays
						all = append(all, e.Name()+" "+appearance(t, path)+" "+text)
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				return all
			}
			before := look()
			l, err := peer.ListenUnix(config(filepath.Join(d, "s")))
			if err == nil {
				l.Close()
			}
			mentions(t, err, "socket "+filepath.Join(d, "s"))
			if errors.Is(err, peer.ErrInUse) {
				t.Errorf("ErrInUse: %v", err)
			}
			if after := look(); fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("there is\n%q\nthere was\n%q", after, before)
			}
		})
	}
}

func TestDirectory(t *testing.T) {
	for name, tc := range map[string]struct {
		make func(t *testing.T, dir string) error
		says []string // none: it is fine
		root bool
	}{
		"private":                  {make: func(_ *testing.T, dir string) error { return os.Mkdir(dir, 0o700) }},
		"others may enter":         {make: func(_ *testing.T, dir string) error { return os.Mkdir(dir, 0o755) }},
		"missing":                  {make: func(*testing.T, string) error { return nil }, says: []string{"make the directory"}},
		"a file":                   {make: func(_ *testing.T, dir string) error { return os.WriteFile(dir, nil, 0o600) }, says: []string{"no directory"}},
		"its group may write":      {make: mkdir(0o775), says: []string{"0775", "chmod go-w"}},
		"everybody may write":      {make: mkdir(0o777), says: []string{"0777", "chmod go-w"}},
		"everybody, but is sticky": {make: mkdir(fs.ModeSticky | 0o777), says: []string{"0777", "chmod go-w"}},
		"of another user": {root: true, says: []string{"uid 23456", "chown"}, make: func(_ *testing.T, dir string) error {
			return errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, 23456, 0))
		}},
		"of another group": {root: true, make: func(_ *testing.T, dir string) error {
			return errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, 0, 23457))
		}},
		"reached by a link": {make: func(_ *testing.T, dir string) error {
			return errors.Join(os.Mkdir(dir+"2", 0o755), os.Symlink(dir+"2", dir))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.root {
				needRoot(t, "only root can give directories away")
			}
			dir := filepath.Join(publicDir(t), "d")
			if err := tc.make(t, dir); err != nil {
				t.Fatal(err)
			}
			l, err := peer.ListenUnix(config(filepath.Join(dir, "s")))
			if len(tc.says) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				l.Close()
				return
			}
			mentions(t, err, append(tc.says, dir)...)
			if entries, _ := os.ReadDir(dir); len(entries) != 0 {
				t.Errorf("it made %v", entries)
			}
		})
	}
}

func mkdir(mode fs.FileMode) func(*testing.T, string) error {
	return func(_ *testing.T, dir string) error {
		return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, mode))
	}
}

func TestPath(t *testing.T) {
	dir := publicDir(t)
	t.Chdir(dir)
	for name, tc := range map[string]struct {
		path string
		says string // empty: it is fine
	}{
		"short":                   {dir + "/s", ""},
		"a name of odd bytes":     {dir + "/ s\n", ""},
		"as long as without proc": {pad(dir, peer.MaxPath-8), ""},
		"longer":                  {pad(dir, peer.MaxPath-7), ""},
		"the longest":             {pad(dir, peer.MaxPath), ""},
		"too long":                {pad(dir, peer.MaxPath+1), "108 bytes"},
		"empty":                   {"", "absolute path"},
		"relative":                {"s", "absolute path"},
		"abstract":                {"@keybroker", "absolute path"},
		"abstract, as bytes":      {"\x00keybroker", "absolute path"},
		"the root":                {"/", "absolute path"},
		"a slash at its end":      {dir + "/s/", "shortest form"},
		"dots":                    {dir + "/d/../s", "shortest form"},
		"a zero byte":             {dir + "/s\x00", "invalid argument"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := peer.ListenUnix(config(tc.path))
			if tc.says != "" {
				mentions(t, err, tc.says)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if got := l.Addr().String(); got != tc.path {
				t.Errorf("the address is %q", got)
			}
			dial(t, l)
			accept(t, l)
		})
	}
}

// pad returns a path in dir that is n bytes long.
func pad(dir string, n int) string { return dir + "/" + strings.Repeat("p", n-len(dir)-1) }

// Callers are told apart where nothing of /proc can be read; only a long path
// needs it.
func TestWithoutProc(t *testing.T) {
	dir := publicDir(t)
	change := func(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS} }
	if os.Geteuid() != 0 {
		change = inNamespace(os.Geteuid(), os.Getegid(), unix.CLONE_NEWNS)
	}
	p := playInNamespace(t, change, "procless", dir)
	if said := p.line(); said != "hidden" {
		t.Skipf("/proc cannot be hidden: %s (a container without CAP_SYS_ADMIN)", said)
	}
	var id peer.Identity
	if err := json.Unmarshal([]byte(p.line()), &id); err != nil {
		t.Fatal(err)
	}
	if id.Exe != "" || id.PID != p.pid() || os.Geteuid() == 0 && id.UID != 0 {
		t.Errorf("the caller is %+v", id)
	}
	mentions(t, errors.New(p.line()), "/proc", fmt.Sprintf("at most %d bytes", peer.MaxPath-7))
	p.end()
}

func TestClose(t *testing.T) {
	t.Run("leaves only the lock", func(t *testing.T) {
		path := filepath.Join(publicDir(t), "s")
		l := listenOn(t, config(path))
		if err := errors.Join(l.Close(), l.Close()); err != nil {
			t.Fatal(err)
		}
		if got := names(t, filepath.Dir(path)); got != "s.lock" {
			t.Errorf("the directory has %s", got)
		}
		listenOn(t, config(path))
	})
	t.Run("again, when another broker serves", func(t *testing.T) {
		path := filepath.Join(publicDir(t), "s")
		first := listenOn(t, config(path))
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		// Its file may have the same inode number.
		second := listenOn(t, config(path))
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		dial(t, second)
		accept(t, second)
		if l, err := peer.ListenUnix(config(path)); !errors.Is(err, peer.ErrInUse) {
			t.Errorf("a third: %v, %v", l, err)
		}
	})
	for name, replace := range map[string]func(t *testing.T, path string) error{
		"a file":   func(_ *testing.T, path string) error { return os.WriteFile(path, nil, 0o600) },
		"a socket": func(_ *testing.T, path string) error { return unix.Mknod(path, unix.S_IFSOCK|0o600, 0) },
		"a link":   func(_ *testing.T, path string) error { return os.Symlink("away", path) },
	} {
		t.Run("leaves what came in its place: "+name, func(t *testing.T) {
			path := filepath.Join(publicDir(t), "s")
			l := listenOn(t, config(path))
			if err := errors.Join(os.Rename(path, filepath.Join(filepath.Dir(path), "away")), replace(t, path)); err != nil {
				t.Fatal(err)
			}
			before := appearance(t, path)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if after := appearance(t, path); after != before {
				t.Errorf("it is %s now, was %s", after, before)
			}
		})
	}
	t.Run("when the file is gone", func(t *testing.T) {
		path := filepath.Join(publicDir(t), "s")
		l := listenOn(t, config(path))
		if err := errors.Join(os.Remove(path), l.Close()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("leaves connections open", func(t *testing.T) {
		l := listen(t, peer.Options{})
		client := dial(t, l)
		conn := accept(t, l)
		l.Close()
		if _, err := client.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	})
}

// Who may not give files away serves nothing rather than with another owner.
func TestOwnerThatCannotBe(t *testing.T) {
	dir := publicDir(t)
	path := filepath.Join(dir, "s")
	var change func(*exec.Cmd)
	if os.Geteuid() == 0 {
		change = as(23456, 23457)
		if err := os.Chown(dir, 23456, 23457); err != nil {
			t.Fatal(err)
		}
	}
	for _, owner := range [][2]string{{"23458", "-1"}, {"-1", "23458"}, {"0", "0"}} {
		p := play(t, change, "give", path, owner[0], owner[1])
		mentions(t, errors.New(p.line()), path, "owner", "run as root", "member of this group")
		p.end()
		if got := names(t, dir); got != "s.lock" {
			t.Errorf("the directory has %s", got)
		}
	}
}
