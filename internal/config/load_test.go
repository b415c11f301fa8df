//go:build unix

package config_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/keybroker/keybroker/internal/config"
)

// Users that no host is likely to have.
const (
	brokerUID = 61234
	otherUID  = 61235
)

// loading is a configuration of files in a directory of its own, as the broker's
// user will find it.
type loading struct {
	t   *testing.T
	dir string
	// uid is the user that loads it: this process's, or another if that is root.
	uid int
}

// everyFile is a configuration that names a file of each use.
const everyFile = `version: 1
node: n1
listen:
  grpc: {socket: /run/kb.sock}
  grpc_tcp:
    address: 127.0.0.1:7443
    cert: tls.crt
    key: tls.key
    client_ca: ca.crt
backends:
  local: {type: file, path: keyring}
  k8s: {type: vault, address: "https://vault:8200", auth: {method: kubernetes, role: kb, jwt_file: jwt}}
keys:
  tikv: {recipients: [{backend: local, key: tikv}]}
clients:
  tikv: {match: {unix: {uid: 0}}}
audit: {path: audit.jsonl}
`

// newLoading makes the files, all as they should be and the broker's own.
func newLoading(t *testing.T, asRoot bool) *loading {
	t.Helper()
	l := &loading{t: t, uid: os.Geteuid()}
	switch {
	case asRoot && l.uid != 0:
		t.Skip("this needs root")
	case !asRoot && l.uid == 0:
		l.uid = brokerUID
	}
	// t.TempDir lets nobody else in.
	dir, err := os.MkdirTemp("", "keybroker-config-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if l.dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]fs.FileMode{"tls.crt": 0o644, "tls.key": 0o600, "ca.crt": 0o644, "jwt": 0o644} {
		l.write(name, "content", mode)
	}
	l.mkdir("keyring", 0o700)
	l.write("config.yaml", everyFile, 0o644)
	l.chmod("", 0o755)
	l.chown("", l.uid)
	return l
}

func (l *loading) path(name string) string { return filepath.Join(l.dir, name) }

func (l *loading) write(name, content string, mode fs.FileMode) {
	l.t.Helper()
	if err := os.WriteFile(l.path(name), []byte(content), 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.chmod(name, mode)
	l.chown(name, l.uid)
}

func (l *loading) mkdir(name string, mode fs.FileMode) {
	l.t.Helper()
	if err := os.Mkdir(l.path(name), 0o700); err != nil {
		l.t.Fatal(err)
	}
	l.chmod(name, mode)
	l.chown(name, l.uid)
}

func (l *loading) chmod(name string, mode fs.FileMode) {
	l.t.Helper()
	if err := os.Chmod(l.path(name), mode); err != nil {
		l.t.Fatal(err)
	}
}

// chown gives a file to a user, with the broker's group.
func (l *loading) chown(name string, uid int) {
	l.t.Helper()
	if os.Geteuid() != 0 {
		if uid != os.Geteuid() {
			l.t.Skip("this needs root")
		}
		return
	}
	if err := os.Lchown(l.path(name), uid, l.uid); err != nil {
		l.t.Fatal(err)
	}
}

func (l *loading) symlink(target, name string) {
	l.t.Helper()
	if err := os.Symlink(target, l.path(name)); err != nil {
		l.t.Fatal(err)
	}
	l.chown(name, l.uid)
}

func (l *loading) remove(name string) {
	l.t.Helper()
	if err := os.Remove(l.path(name)); err != nil {
		l.t.Fatal(err)
	}
}

func (l *loading) fifo(name string) {
	l.t.Helper()
	if err := syscall.Mkfifo(l.path(name), 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.chown(name, l.uid)
}

// load loads a configuration as the broker's user. In what comes of it, DIR
// stands for the directory, UID for the user, and ROOT for what is said to who
// checks as root.
func (l *loading) load(name string) string {
	l.t.Helper()
	var told string
	if l.uid == os.Geteuid() {
		told = load(l.path(name))
	} else {
		told = l.loadAsUser(name)
	}
	return strings.NewReplacer(
		l.dir, "DIR", "uid "+strconv.Itoa(l.uid), "uid UID", "uid "+strconv.Itoa(otherUID), "uid OTHER",
		"; this was checked as root: check as the user that serves, whose files and groups count", "ROOT",
	).Replace(told)
}

// loadAsUser runs this binary as the broker's user. Where go test has put it,
// nobody else may run it.
func (l *loading) loadAsUser(name string) string {
	l.t.Helper()
	self, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "keybroker-config-binary-")
	if err != nil {
		l.t.Fatal(err)
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			l.t.Error(err)
		}
	}()
	content, err := os.ReadFile(self)
	if err != nil {
		l.t.Fatal(err)
	}
	binary := filepath.Join(dir, "config.test")
	if err := errors.Join(os.WriteFile(binary, content, 0o755), os.Chmod(dir, 0o755), os.Chmod(binary, 0o755)); err != nil {
		l.t.Fatal(err)
	}
	cmd := exec.Command(binary)
	cmd.Dir = "/"
	// The race detector waits a second at the end, for what no other thread does.
	cmd.Env = append(os.Environ(), loadEnv+"="+l.path(name), "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(l.uid), Gid: uint32(l.uid)}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		l.t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func TestLoad(t *testing.T) {
	const well = "well"
	onlyOurs := "want only root and the broker's user to write it (chmod go-w "
	for _, test := range []struct {
		name   string
		asRoot bool
		change func(l *loading)
		want   string
	}{
		// The configuration.
		{"all of the broker's own", false, func(*loading) {}, well},
		{"all of root's own", true, func(*loading) {}, well},
		{"all of root, read by the broker", false, func(l *loading) {
			for _, name := range []string{"", "config.yaml", "tls.crt", "ca.crt", "jwt"} {
				l.chown(name, 0)
			}
			l.chown("tls.key", 0)
			l.chmod("tls.key", 0o640)
		}, well},
		{"written by the group", false, func(l *loading) { l.chmod("config.yaml", 0o664) },
			"DIR/config.yaml: found the file DIR/config.yaml, of mode 0664 and uid UID: others may write it; " + onlyOurs + "DIR/config.yaml)"},
		{"written by everyone, as root", true, func(l *loading) { l.chmod("config.yaml", 0o646) },
			"DIR/config.yaml: found the file DIR/config.yaml, of mode 0646 and uid UID: others may write it; " + onlyOurs + "DIR/config.yaml)"},
		{"of another user", false, func(l *loading) { l.chown("config.yaml", otherUID) },
			"DIR/config.yaml: found the file DIR/config.yaml, of mode 0644 and uid OTHER; want a file of root or the broker's user (uid UID)"},
		{"of another user, as root", true, func(l *loading) { l.chown("config.yaml", otherUID) },
			"DIR/config.yaml: found the file DIR/config.yaml, of mode 0644 and uid OTHER; want a file of root or the broker's user (uid UID)ROOT"},
		{"not readable", false, func(l *loading) {
			l.chmod("config.yaml", 0o600)
			l.chown("config.yaml", 0)
		}, "DIR/config.yaml: found no permission to read it; want a configuration file that the broker's user may read"},
		{"missing", false, func(l *loading) { l.remove("config.yaml") },
			"DIR/config.yaml: found no such file; want a configuration file that the broker's user may read"},
		{"a directory", false, func(l *loading) { l.remove("config.yaml"); l.mkdir("config.yaml", 0o755) },
			"DIR/config.yaml: found a directory; want a configuration file"},
		{"a pipe", false, func(l *loading) { l.remove("config.yaml"); l.fifo("config.yaml") },
			"DIR/config.yaml: found a pipe, socket or device; want a configuration file"},
		{"a link to nothing", false, func(l *loading) { l.remove("config.yaml"); l.symlink("elsewhere.yaml", "config.yaml") },
			"DIR/config.yaml: found no such file; want a configuration file that the broker's user may read"},
		{"too large", false, func(l *loading) { l.write("config.yaml", everyFile+"#"+strings.Repeat("x", config.MaxSize), 0o644) },
			"DIR/config.yaml:1:1: found more than 1 MiB; want a configuration of at most 1 MiB"},

		// Its directories.
		{"in a directory that the group writes", false, func(l *loading) { l.chmod("", 0o775) },
			"DIR/config.yaml: found the directory DIR, of mode 0775 and uid UID: others may write it; " + onlyOurs + "DIR)"},
		{"in a directory that everyone writes, as root", true, func(l *loading) { l.chmod("", 0o757) },
			"DIR/config.yaml: found the directory DIR, of mode 0757 and uid UID: others may write it; " + onlyOurs + "DIR)"},
		{"in a sticky directory", false, func(l *loading) { l.chmod("", 0o777|fs.ModeSticky) }, well},
		{"in another user's directory", false, func(l *loading) { l.chown("", otherUID) },
			"DIR/config.yaml: found the directory DIR, of mode 0755 and uid OTHER; want a directory of root or the broker's user (uid UID)"},
		{"in another user's sticky directory", false, func(l *loading) {
			l.chmod("", 0o777|fs.ModeSticky)
			l.chown("", otherUID)
		}, "DIR/config.yaml: found the directory DIR, of mode 1777 and uid OTHER; want a directory of root or the broker's user (uid UID)"},
		{"a ConfigMap's links", false, configMap, well},
		{"a ConfigMap's directory written by others", false, func(l *loading) { configMap(l); l.chmod("..2026_11_25", 0o777) },
			"DIR/config.yaml: found the directory DIR/..2026_11_25, of mode 0777 and uid UID: others may write it; " + onlyOurs + "DIR/..2026_11_25)"},
		{"a link through a directory that others write", false, func(l *loading) {
			l.remove("config.yaml")
			l.mkdir("between", 0o777)
			l.mkdir("end", 0o755)
			l.write("end/config.yaml", absolute(l, everyFile), 0o644)
			l.symlink("../end/config.yaml", "between/link.yaml")
			l.symlink("between/link.yaml", "third.yaml")
			l.symlink(l.path("third.yaml"), "second.yaml")
			l.symlink("second.yaml", "config.yaml")
		}, "DIR/config.yaml: found the directory DIR/between, of mode 0777 and uid UID: others may write it; " + onlyOurs + "DIR/between)"},

		// Private files.
		{"a key that everyone reads", false, func(l *loading) { l.chmod("tls.key", 0o604) },
			"DIR/config.yaml:8:10: listen.grpc_tcp.key: found DIR/tls.key, of mode 0604 and uid UID: others may use it; want mode 0600 (chmod go= DIR/tls.key)"},
		{"a key of the broker that its group reads", false, func(l *loading) { l.chmod("tls.key", 0o640) },
			"DIR/config.yaml:8:10: listen.grpc_tcp.key: found DIR/tls.key, of mode 0640 and uid UID: others may use it; want mode 0600 (chmod go= DIR/tls.key)"},
		{"a key of root that its group writes", false, func(l *loading) { l.chmod("tls.key", 0o660); l.chown("tls.key", 0) },
			"DIR/config.yaml:8:10: listen.grpc_tcp.key: found DIR/tls.key, of mode 0660 and uid 0: others may use it; want mode 0600 (chmod go= DIR/tls.key)"},
		{"a key of root that its group reads, as root", true, func(l *loading) { l.chmod("tls.key", 0o440) },
			"DIR/config.yaml:8:10: listen.grpc_tcp.key: found DIR/tls.key, of mode 0440 and uid UID: others may use it; want mode 0600 (chmod go= DIR/tls.key)ROOT"},
		{"a key that only root reads", false, func(l *loading) { l.chmod("tls.key", 0o600); l.chown("tls.key", 0) },
			"DIR/config.yaml:8:10: listen.grpc_tcp.key: found DIR/tls.key, of mode 0600 and uid 0: no permission to read it; want a file that the broker's user may read"},
		{"a key of another user", false, func(l *loading) { l.chown("tls.key", otherUID) },
			"DIR/config.yaml:8:10: listen.grpc_tcp.key: found DIR/tls.key, of mode 0600 and uid OTHER; want a file of root or the broker's user (uid UID)"},
		{"a key of another user, as root", true, func(l *loading) { l.chown("tls.key", otherUID) },
			"DIR/config.yaml:8:10: listen.grpc_tcp.key: found DIR/tls.key, of mode 0600 and uid OTHER; want a file of root or the broker's user (uid UID)ROOT"},
		{"a link to a key that others read", false, func(l *loading) {
			l.remove("tls.key")
			l.write("open.key", "content", 0o644)
			l.symlink("open.key", "tls.key")
		}, "DIR/config.yaml:8:10: listen.grpc_tcp.key: found DIR/tls.key, of mode 0644 and uid UID: others may use it; want mode 0600 (chmod go= DIR/tls.key)"},
		{"a key that may be the secret itself", false, func(l *loading) { l.remove("tls.key") },
			"DIR/config.yaml:8:10: listen.grpc_tcp.key: found a path from the configuration's directory that leads to no file; " +
				"want a file that the broker's user may read, and its path here; never the secret itself"},
		{"a missing key", false, func(l *loading) { l.write("config.yaml", absolute(l, everyFile), 0o644); l.remove("tls.key") },
			"DIR/config.yaml:8:10: listen.grpc_tcp.key: found DIR/tls.key: no such file; want a file that the broker's user may read"},
		{"a key in a directory that is closed", false, func(l *loading) {
			l.write("config.yaml", strings.Replace(everyFile, "key: tls.key", "key: closed/tls.key", 1), 0o644)
			l.mkdir("closed", 0o700)
			l.chown("closed", 0)
		}, "DIR/config.yaml:8:10: listen.grpc_tcp.key: found DIR/closed/tls.key: no permission to read it; want a file that the broker's user may read"},
		{"a key in no directory", false, func(l *loading) {
			l.write("config.yaml", strings.Replace(everyFile, "key: tls.key", "key: "+l.path("tls.crt/tls.key"), 1), 0o644)
		}, "DIR/config.yaml:8:10: listen.grpc_tcp.key: found DIR/tls.crt/tls.key: an error (not a directory); want a file that the broker's user may read"},
		{"a key that is a directory", false, func(l *loading) { l.remove("tls.key"); l.mkdir("tls.key", 0o700) },
			"DIR/config.yaml:8:10: listen.grpc_tcp.key: found DIR/tls.key, which is a directory; want a file"},
		{"a key that is a pipe", false, func(l *loading) { l.remove("tls.key"); l.fifo("tls.key") },
			"DIR/config.yaml:8:10: listen.grpc_tcp.key: found DIR/tls.key, which is a pipe, socket or device; want a file"},

		// Files that everyone may read.
		{"a certificate that the group writes", false, func(l *loading) { l.chmod("tls.crt", 0o664) },
			"DIR/config.yaml:7:11: listen.grpc_tcp.cert: found DIR/tls.crt, of mode 0664 and uid UID: others may write it; want a file that only root and the broker's user may write (chmod go-w DIR/tls.crt)"},
		{"roots that everyone writes", false, func(l *loading) { l.chmod("ca.crt", 0o646) },
			"DIR/config.yaml:9:16: listen.grpc_tcp.client_ca: found DIR/ca.crt, of mode 0646 and uid UID: others may write it; want a file that only root and the broker's user may write (chmod go-w DIR/ca.crt)"},
		{"roots of another user", false, func(l *loading) { l.chown("ca.crt", otherUID) },
			"DIR/config.yaml:9:16: listen.grpc_tcp.client_ca: found DIR/ca.crt, of mode 0644 and uid OTHER; want a file of root or the broker's user (uid UID)"},
		{"a missing certificate", false, func(l *loading) { l.remove("tls.crt") },
			"DIR/config.yaml:7:11: listen.grpc_tcp.cert: found DIR/tls.crt: no such file; want a file that the broker's user may read"},
		{"a token that the group writes", false, func(l *loading) { l.chmod("jwt", 0o664) },
			"DIR/config.yaml:12:100: backends.k8s.auth.jwt_file: found DIR/jwt, of mode 0664 and uid UID: others may write it; want a file that only root and the broker's user may write (chmod go-w DIR/jwt)"},

		// Keyrings.
		{"a keyring that the group enters", false, func(l *loading) { l.chmod("keyring", 0o710) },
			"DIR/config.yaml:11:29: backends.local.path: found DIR/keyring, of mode 0710 and uid UID: others may use it; want mode 0700 (chmod go= DIR/keyring)"},
		{"a keyring of root that the group reads", false, func(l *loading) { l.chmod("keyring", 0o750); l.chown("keyring", 0) },
			"DIR/config.yaml:11:29: backends.local.path: found DIR/keyring, of mode 0750 and uid 0: others may use it; want mode 0700 (chmod go= DIR/keyring)"},
		{"a keyring that only root reads", false, func(l *loading) { l.chown("keyring", 0) },
			"DIR/config.yaml:11:29: backends.local.path: found DIR/keyring, of mode 0700 and uid 0: no permission to read it; want a directory that the broker's user may read"},
		{"a keyring of another user", false, func(l *loading) { l.chown("keyring", otherUID) },
			"DIR/config.yaml:11:29: backends.local.path: found DIR/keyring, of mode 0700 and uid OTHER; want a directory of root or the broker's user (uid UID)"},
		{"no keyring", false, func(l *loading) { l.remove("keyring") },
			"DIR/config.yaml:11:29: backends.local.path: found DIR/keyring: no such file; want a directory that the broker's user may read; `keybroker keyring create` makes one"},
		{"a keyring that is a file", false, func(l *loading) { l.remove("keyring"); l.write("keyring", "content", 0o600) },
			"DIR/config.yaml:11:29: backends.local.path: found DIR/keyring, which is a file; want a directory"},
		{"a link to a keyring", false, func(l *loading) { l.remove("keyring"); l.mkdir("elsewhere", 0o700); l.symlink("elsewhere", "keyring") }, well},

		{"a key of a keyring that others read", false, func(l *loading) { l.write("keyring/tikv.keyring", "content", 0o604) },
			"DIR/config.yaml:11:29: backends.local.path: found DIR/keyring/tikv.keyring, of mode 0604 and uid UID: others may use it; want mode 0600 (chmod go= DIR/keyring/tikv.keyring)"},
		{"a key of a keyring of root that its group reads", false, func(l *loading) {
			l.write("keyring/tikv.keyring", "content", 0o640)
			l.chown("keyring/tikv.keyring", 0)
		}, "DIR/config.yaml:11:29: backends.local.path: found DIR/keyring/tikv.keyring, of mode 0640 and uid 0: others may use it; want mode 0600 (chmod go= DIR/keyring/tikv.keyring)"},
		{"a key of a keyring of another user", false, func(l *loading) {
			l.write("keyring/tikv.keyring", "content", 0o600)
			l.chown("keyring/tikv.keyring", otherUID)
		}, "DIR/config.yaml:11:29: backends.local.path: found DIR/keyring/tikv.keyring, of mode 0600 and uid OTHER; want a file of root or the broker's user (uid UID)"},
		{"a key of a keyring that is a link", false, func(l *loading) {
			l.write("tikv.keyring", "content", 0o600)
			l.symlink("../tikv.keyring", "keyring/tikv.keyring")
		}, "DIR/config.yaml:11:29: backends.local.path: found DIR/keyring/tikv.keyring, which is a symbolic link; want the file itself there"},
		{"a key of a keyring, private, and other files", false, func(l *loading) {
			l.write("keyring/tikv.keyring", "content", 0o600)
			l.write("keyring/README", "content", 0o644)
		}, well},

		// What systemd makes at the start is only missed.
		{"no directories for what is made", false, func(l *loading) {
			l.write("config.yaml", strings.NewReplacer("/run/kb.sock", "run/kb.sock", "audit.jsonl", "log/audit.jsonl").Replace(everyFile), 0o644)
		}, well + "\n" +
			"DIR/config.yaml:4:18: listen.grpc.socket: found no directory DIR/run; want it made before the broker starts, by its unit or by install -d -m 0755 -o USER -g GROUP DIR/run\n" +
			"DIR/config.yaml:17:15: audit.path: found no directory DIR/log; want it made before the broker starts, by its unit or by install -d -m 0750 -o USER -g GROUP DIR/log"},
		{"a file in the place of a directory", false, func(l *loading) {
			l.write("config.yaml", strings.Replace(everyFile, "audit.jsonl", "jwt/audit.jsonl", 1), 0o644)
		}, well + "\nDIR/config.yaml:17:15: audit.path: found DIR/jwt, which is a file; want a directory"},

		// All at once, those of the whole file first.
		{"everything", false, func(l *loading) {
			l.chmod("", 0o777)
			l.write("config.yaml", strings.NewReplacer("node: n1", "nod: n1", "capacity", "").Replace(everyFile)+"cash: {}\n", 0o666)
			l.chmod("tls.key", 0o644)
			l.chmod("keyring", 0o755)
			l.remove("jwt")
		}, "DIR/config.yaml: found the file DIR/config.yaml, of mode 0666 and uid UID: others may write it; " + onlyOurs + "DIR/config.yaml)\n" +
			"DIR/config.yaml: found the directory DIR, of mode 0777 and uid UID: others may write it; " + onlyOurs + "DIR)\n" +
			"DIR/config.yaml:2:1: nod: found an unknown key; want one of version, node, listen, backends, keys, clients, audit, memory, cache (did you mean \"node\"?)\n" +
			"DIR/config.yaml:8:10: listen.grpc_tcp.key: found DIR/tls.key, of mode 0644 and uid UID: others may use it; want mode 0600 (chmod go= DIR/tls.key)\n" +
			"DIR/config.yaml:11:29: backends.local.path: found DIR/keyring, of mode 0755 and uid UID: others may use it; want mode 0700 (chmod go= DIR/keyring)\n" +
			"DIR/config.yaml:12:100: backends.k8s.auth.jwt_file: found DIR/jwt: no such file; want a file that the broker's user may read\n" +
			"DIR/config.yaml:18:1: cash: found an unknown key; want one of version, node, listen, backends, keys, clients, audit, memory, cache"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLoading(t, test.asRoot)
			test.change(l)
			if got := l.load("config.yaml"); got != test.want {
				t.Errorf("%s\nwant: %s", got, test.want)
			}
		})
	}
}

// configMap makes config.yaml what a kubelet makes of a ConfigMap.
func configMap(l *loading) {
	l.t.Helper()
	l.remove("config.yaml")
	l.mkdir("..2026_11_25", 0o755)
	l.write("..2026_11_25/config.yaml", everyFile, 0o644)
	l.symlink("..2026_11_25", "..data")
	l.symlink("..data/config.yaml", "config.yaml")
}

// absolute is a configuration with the loading's paths in full.
func absolute(l *loading, text string) string {
	for _, name := range []string{"tls.crt", "tls.key", "ca.crt", "keyring", "jwt", "audit.jsonl"} {
		text = strings.Replace(text, ": "+name, ": "+l.path(name), 1)
	}
	return text
}

func TestLoadTheDefaultToken(t *testing.T) {
	if _, err := os.Stat(config.DefaultJWTFile); err == nil {
		t.Skipf("this host has %s", config.DefaultJWTFile)
	}
	l := newLoading(t, false)
	l.write("config.yaml", strings.Replace(everyFile, ", jwt_file: jwt", "", 1), 0o644)
	want := "DIR/config.yaml:12:59: backends.k8s.auth.jwt_file: found " + config.DefaultJWTFile + ": no such file; want a file that the broker's user may read"
	if got := l.load("config.yaml"); got != want {
		t.Errorf("%s\nwant: %s", got, want)
	}
}

// systemd's credentials are of root, with a mode that the unit's user reads them
// by.
func TestLoadCredentials(t *testing.T) {
	l := newLoading(t, false)
	l.mkdir("credentials", 0o755)
	l.write("credentials/tls.key", "content", 0o440)
	l.chown("credentials/tls.key", 0)
	l.write("config.yaml", strings.Replace(everyFile, "key: tls.key", "key: ${CREDENTIALS_DIRECTORY}/tls.key", 1), 0o644)
	for directory, want := range map[string]string{
		l.path("credentials"): "well",
		l.dir + "/nowhere":    "DIR/config.yaml:8:10: listen.grpc_tcp.key: found DIR/nowhere/tls.key: no such file; want a file that the broker's user may read",
		"":                    "DIR/config.yaml:8:10: listen.grpc_tcp.key: found \"${CREDENTIALS_DIRECTORY}/tls.key\", but that variable is not set; want to be started by systemd with LoadCredential=, or a path without the variable",
	} {
		t.Run(filepath.Base(directory), func(t *testing.T) {
			t.Setenv("CREDENTIALS_DIRECTORY", directory)
			if got := l.load("config.yaml"); got != want {
				t.Errorf("%s\nwant: %s", got, want)
			}
		})
	}
}

// A path from the working directory is shown as it was given.
func TestLoadRelative(t *testing.T) {
	l := newLoading(t, os.Geteuid() == 0)
	t.Chdir(l.dir)
	if got := load("config.yaml"); got != "well" {
		t.Error(got)
	}
	l.chmod("keyring", 0o755)
	got := strings.ReplaceAll(load("./config.yaml"), l.dir, "DIR")
	if !strings.HasPrefix(got, "./config.yaml:11:29: backends.local.path: found DIR/keyring, of mode 0755") {
		t.Error(got)
	}
}

// The examples are well once their files are there.
func TestLoadExamples(t *testing.T) {
	for _, name := range []string{"minimal", "full"} {
		t.Run(name, func(t *testing.T) {
			l := newLoading(t, false)
			text := string(mustRead(t, examples+"/"+name+".yaml"))
			for _, dir := range []string{"/etc/keybroker", "/var/lib/keybroker", "/var/run/secrets/keybroker"} {
				text = strings.ReplaceAll(text, dir, l.dir)
			}
			// Users and groups that every host has.
			text = strings.NewReplacer("user: keybroker", "user: root", "user: tidb", "user: root", "group: tidb", "gid: 1", "group: keybroker-admin", "gid: 2").Replace(text)
			l.write("config.yaml", text, 0o640)
			c, err := config.Parse("config.yaml", []byte(text), config.System(l.dir))
			if err != nil {
				t.Fatal(err)
			}
			files := map[string]fs.FileMode{}
			if tls := c.Listen.GRPCTCP; tls != nil {
				files[tls.CertFile], files[tls.KeyFile], files[tls.ClientCAFile] = 0o644, 0o600, 0o644
			}
			if e := c.Listen.AWSKMS; e != nil {
				files[e.CertFile], files[e.KeyFile] = 0o644, 0o600
			}
			if o := c.Audit.OTLP; o != nil {
				files[o.HeadersFile], files[o.KeyFile], files[o.CAFile], files[o.CertFile] = 0o600, 0o600, 0o644, 0o644
			}
			for _, k := range c.AccessKeys {
				files[k.SecretFile] = 0o600
			}
			for _, b := range c.Backends {
				switch b.Type { // newLoading has made the keyring
				case config.TypeVault:
					a, tls := b.Vault.Auth, b.Vault.TLS
					for _, private := range []string{a.TokenFile, a.RoleIDFile, a.SecretIDFile, tls.KeyFile} {
						files[private] = 0o600
					}
					for _, public := range []string{a.JWTFile, tls.CAFile, tls.CertFile} {
						files[public] = 0o644
					}
				case config.TypeAWSKMS:
					files[b.AWSKMS.CAFile] = 0o644
					if i := b.AWSKMS.WebIdentity; i != nil {
						files[i.TokenFile] = 0o644
					}
				case config.TypeGCPKMS:
					files[b.GCPKMS.CAFile], files[b.GCPKMS.CredentialsFile] = 0o644, 0o600
				}
			}
			delete(files, "")
			for path, mode := range files {
				at, err := filepath.Rel(l.dir, path)
				if err != nil || strings.HasPrefix(at, "..") {
					t.Fatalf("the example has %s", path)
				}
				if dir := filepath.Dir(at); dir != "." {
					if err := os.MkdirAll(l.path(dir), 0o755); err != nil {
						t.Fatal(err)
					}
				}
				l.write(at, strings.Repeat("content-", 4), mode) // 32 characters, for secrets
			}
			if got := l.load("config.yaml"); !strings.HasPrefix(got, "well") {
				t.Error(got)
			}
		})
	}
}
