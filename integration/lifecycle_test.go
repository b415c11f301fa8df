package integration_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// waitFor polls until f is true.
func waitFor(t *testing.T, what string, f func() bool) {
	t.Helper()
	waitUpTo(t, 20*time.Second, what, f)
}

func waitUpTo(t *testing.T, patience time.Duration, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come to this: %s", what)
		}
	}
}

// TestNotify: the service manager is told when the broker serves, that it is
// alive, and when it stops.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	b := newBroker(t, "", "")
	b.configure(fileBackend(t))
	b.env = []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=200000"}
	b.start()
	heard := func(want string) {
		t.Helper()
		buf := make([]byte, 1024)
		for {
			if err := notify.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			n, err := notify.Read(buf)
			if err != nil {
				t.Fatalf("%s was not said: %v", want, err)
			}
			if strings.Contains(string(buf[:n]), want) {
				return
			}
		}
	}
	heard("READY=1")
	heard("WATCHDOG=1")
	b.stop()
	heard("STOPPING=1")
	if code := b.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d after SIGTERM\n%s", code, b.stderr)
	}
}

// TestSocketActivation: the socket is the service manager's, and stays when the
// broker goes.
func TestSocketActivation(t *testing.T) {
	b := newBroker(t, "", "")
	b.configure(fileBackend(t))
	held, err := net.ListenUnix("unix", &net.UnixAddr{Name: b.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	f, err := held.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b.wrap = []string{"/bin/sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=grpc exec "$@"`, "sh"}
	b.files = []*os.File{f}
	for range 2 { // the second one takes over where the first ended
		b.start()
		k := b.generate("main")
		b.mustUnwrap(k, fromAny)
		b.stop()
		if _, err := os.Lstat(b.socket); err != nil {
			t.Fatalf("the broker removed a socket that is not its own: %v", err)
		}
	}
}

// TestDrain: a call that is under way when the broker is told to stop is answered,
// and the broker ends with success.
func TestDrain(t *testing.T) {
	v := startVault(t)
	v.newKey("tikv", nil)
	b := newBroker(t, strings.Replace(v.backend("vault-main"), "timeout: 2s", "timeout: 8s", 1), "  tikv: {recipients: [{backend: vault-main, key: tikv}]}")
	b.start()
	k := b.generate("tikv")
	b.purge()
	if err := v.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := b.unwrap(k)
		answered <- err
	}()
	waitFor(t, "the call is under way", b.underWay)
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the broker drains", func() bool { return strings.Contains(b.stderr.String(), "draining") })
	if err := v.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Errorf("the call under way was not answered: %v", err)
	}
	<-b.exited
	if code := b.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d\n%s", code, b.stderr)
	}
}

// TestKilledLeavesNothingInTheWay: the socket of a killed broker is replaced, and
// a second broker does not take the socket or the log of a living one.
func TestKilledLeavesNothingInTheWay(t *testing.T) {
	b := newBroker(t, "", "")
	b.configure(fileBackend(t))
	b.start()
	b.end(syscall.SIGKILL)
	b.start()
	out, err := exec.Command(brokerBinary(t), "serve", "-c", filepath.Join(b.dir, "config.yaml")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another process") {
		t.Errorf("a second broker: %v, %s", err, out)
	}
	k := b.generate("main")
	b.mustUnwrap(k, fromCache)
}

// TestHangup: SIGHUP puts a changed configuration in force; a bad one changes
// nothing and says why.
func TestHangup(t *testing.T) {
	b := newBroker(t, "", "")
	backends, keys := fileBackend(t)
	b.configure(backends, keys)
	b.start()
	b.configure(backends, keys+"\n  second: {recipients: [{backend: local, key: main}]}")
	if err := b.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the second key is served", func() bool { return strings.Contains(b.mustCLI("keys"), "second") })
	b.generate("second")

	b.configure(backends, keys+"\n  third: {recipients: [{backend: nowhere, key: main}]}")
	if err := b.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the log says why", func() bool { return strings.Contains(b.stderr.String(), "nowhere") })
	b.generate("second")
	_, err := b.cli(nil, "reload")
	if err == nil || !strings.Contains(err.Error(), "nowhere") || !strings.Contains(err.Error(), "config.yaml:") {
		t.Errorf("reload does not say what is wrong, and where: %v", err)
	}
}

// TestHealthPages: alive is not ready, and ready is not "the KMS is up".
func TestHealthPages(t *testing.T) {
	v := startVault(t)
	v.newKey("tikv", nil)
	// That Vault is sealed is found out by the next check.
	b := newBroker(t, v.backend("vault-main"), "  tikv: {recipients: [{backend: vault-main, key: tikv}], check_interval: 1s}")
	admin := freePort(t)
	b.listenAdmin(admin)
	b.start()
	code := func(page string) int {
		t.Helper()
		r, err := http.Get("http://" + admin + page)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		return r.StatusCode
	}
	b.generate("tikv")
	waitFor(t, "it is ready", func() bool { return code("/readyz") == http.StatusOK })
	v.seal()
	if _, err := b.keys().GenerateDataKey(t.Context(), &keybrokerv1.GenerateDataKeyRequest{KeyName: "tikv"}); err != nil {
		t.Errorf("a cached key is not served while Vault is sealed: %v", err)
	}
	if code("/readyz") != http.StatusOK || code("/healthz") != http.StatusOK {
		t.Error("a broker that serves from its cache is not ready")
	}
	b.mustCLI("purge", "--force", "tikv")
	waitFor(t, "it is not ready with nothing to serve", func() bool { return code("/readyz") == http.StatusServiceUnavailable })
	if code("/healthz") != http.StatusOK {
		t.Error("an outage of the KMS would have the broker killed")
	}
	v.unseal()
	waitFor(t, "it is ready again", func() bool { return code("/readyz") == http.StatusOK })
}

// underWay tells whether the broker has a call that it has not answered, by its
// connection to Vault.
func (b *broker) underWay() bool {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 100*time.Millisecond)
	defer cancel()
	// A second call for the same key joins the first; that it is not answered
	// shows that the first one waits.
	_, err := b.keys().GenerateDataKey(ctx, &keybrokerv1.GenerateDataKeyRequest{KeyName: "tikv"})
	return err != nil && ctx.Err() != nil
}

// openToAll lets every local user reach the socket: the policy has to keep them
// out.
func (b *broker) openToAll() {
	b.t.Helper()
	for path, mode := range map[string]os.FileMode{b.dir: 0o755, b.socket: 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			b.t.Fatal(err)
		}
	}
	for dir := filepath.Dir(b.dir); dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			b.t.Fatal(err)
		}
	}
}

// TestStrangers: who is no client gets nothing, and is on the record.
func TestStrangers(t *testing.T) {
	needRoot(t, "becoming another user")
	b := newBroker(t, "", "")
	b.configure(fileBackend(t))
	b.start()
	b.openToAll()
	bin := filepath.Join(b.dir, "keybroker")
	text, err := os.ReadFile(brokerBinary(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bin, text, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"generate", "main"}, {"generate", "nothing"}, {"keys"}, {"status"}, {"reload"}, {"purge", "--all", "--force"}} {
		cmd := exec.Command(bin, append(args, "--socket", b.socket)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4242, Gid: 4242}}
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 3 || !strings.Contains(string(out), "ACCESS_DENIED") {
			t.Errorf("%v: %v, %s", args, err, out)
		}
	}
	records := b.mustCLI("audit", "tail", "-n", "100", "-o", "json")
	if n := strings.Count(records, fmt.Sprintf(`"uid":%d`, 4242)); n != 6 {
		t.Errorf("%d records of the stranger, want 6:\n%s", n, records)
	}
}
