package tpmseal_test

import (
	"bytes"
	"crypto/fips140"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/internal/tpmseal"
)

// software returns a TPM of its own for the test, made by swtpm, and what crosses its
// bus.
func software(t *testing.T) (tpmseal.Device, *bus) {
	t.Helper()
	return boot(t, t.TempDir())
}

// boot is software with the state that is kept in a directory, after a power cycle.
func boot(t *testing.T, state string) (tpmseal.Device, *bus) {
	t.Helper()
	if fips140.Enforced() {
		t.Skip("GODEBUG=fips140=only does not allow AES-CFB")
	}
	program, err := exec.LookPath("swtpm")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("swtpm is not installed")
		}
		t.Skip("swtpm is not installed (Debian: apt-get install swtpm)")
	}
	dir, err := os.MkdirTemp("", "tpm") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "tpm")
	cmd := exec.Command(program, "socket", "--tpm2", "--tpmstate", "dir="+state, "--server", "type=unixio,path="+socket,
		"--ctrl", "type=unixio,path="+filepath.Join(dir, "control"), "--flags", "not-need-init,startup-clear")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := newBus(t, filepath.Join(dir, "bus"), socket)
	b.off = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(b.off)
	return tpmseal.Device{Path: b.path}, b
}

// bus passes on what is said to a TPM and what it answers, a connection each, and
// remembers it.
type bus struct {
	path string
	seen chan []byte
	off  func() // ends the TPM
}

func newBus(t *testing.T, path, tpm string) *bus {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	b := &bus{path: path, seen: make(chan []byte, 1000)}
	done := make(chan struct{})
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	go func() {
		defer close(done)
		for {
			host, err := l.Accept()
			if err != nil {
				return
			}
			b.exchange(host, tpm)
		}
	}()
	return b
}

func (b *bus) exchange(host net.Conn, path string) {
	defer host.Close()
	tpm, err := net.Dial("unix", path)
	for began := time.Now(); err != nil && time.Since(began) < 10*time.Second; time.Sleep(10 * time.Millisecond) {
		tpm, err = net.Dial("unix", path) // it has only just been started
	}
	if err != nil {
		return
	}
	defer tpm.Close()
	for from, to := host, tpm; ; from, to = to, from {
		buf := make([]byte, 8192)
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		b.seen <- buf[:n]
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// crossed is all that has crossed the bus since it was last asked.
func (b *bus) crossed() []byte {
	var all []byte
	for {
		select {
		case part := <-b.seen:
			all = append(all, part...)
		default:
			return all
		}
	}
}

var secret = []byte("a secret of thirty-two bytes ok.")

func TestSealed(t *testing.T) {
	d, b := software(t)
	// More often than the TPM has room for objects and sessions.
	for range 5 {
		blob, err := d.Seal(secret)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(blob, secret) {
			t.Error("the blob has the secret")
		}
		got, err := d.Unseal(blob)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, secret) {
			t.Errorf("another secret: %q", got)
		}
	}
	if all := b.crossed(); len(all) == 0 || bytes.Contains(all, secret) {
		t.Errorf("%d bytes have crossed the bus, and the secret among them: %v", len(all), bytes.Contains(all, secret))
	}
}

func TestOpensAfterAReboot(t *testing.T) {
	state := t.TempDir()
	d, b := boot(t, state)
	blob, err := d.Seal(secret)
	if err != nil {
		t.Fatal(err)
	}
	b.off()
	d, _ = boot(t, state)
	if got, err := d.Unseal(blob); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestSizes(t *testing.T) {
	d, _ := software(t)
	for _, n := range []int{1, tpmseal.MaxSecret} {
		blob, err := d.Seal(bytes.Repeat([]byte{7}, n))
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if got, err := d.Unseal(blob); err != nil || len(got) != n {
			t.Errorf("%d bytes: %d, %v", n, len(got), err)
		}
	}
	for _, n := range []int{0, tpmseal.MaxSecret + 1} {
		if _, err := d.Seal(make([]byte, n)); !errors.Is(err, tpmseal.ErrSize) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestAnotherTPMDoesNotOpenIt(t *testing.T) {
	here, _ := software(t)
	there, _ := software(t)
	blob, err := here.Seal(secret)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := there.Unseal(blob); err == nil {
		t.Errorf("it opens: %q", got)
	}
	// It has no objects left over from that.
	if _, err := there.Seal(secret); err != nil {
		t.Error(err)
	}
}

func TestDamagedBlobs(t *testing.T) {
	d, _ := software(t)
	blob, err := d.Seal(secret)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(blob) {
		// Each byte in parts, a TPM being slow.
		if n > 8 && n%16 != 0 {
			continue
		}
		if got, err := d.Unseal(blob[:n]); err == nil {
			t.Errorf("the first %d bytes open: %q", n, got)
		}
		changed := bytes.Clone(blob)
		changed[n] ^= 1
		if got, err := d.Unseal(changed); err == nil {
			t.Errorf("with byte %d changed it opens: %q", n, got)
		}
	}
	if got, err := d.Unseal(blob); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("after that: %q, %v", got, err)
	}
}

func TestNoTPM(t *testing.T) {
	if fips140.Enforced() {
		t.Skip("GODEBUG=fips140=only does not allow AES-CFB")
	}
	missing := tpmseal.Device{Path: filepath.Join(t.TempDir(), "tpm")}
	if _, err := missing.Seal(secret); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no device: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (tpmseal.Device{Path: file}).Seal(secret); err == nil {
		t.Error("a file is a TPM")
	}
}

// Where FIPS 140 alone is allowed it refuses by name. The test runs itself there.
func TestFIPSOnlyIsRefused(t *testing.T) {
	if !fips140.Enforced() {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self, "-test.run=^TestFIPSOnlyIsRefused$", "-test.v")
		cmd.Env = append(os.Environ(), "GODEBUG=fips140=only")
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestFIPSOnlyIsRefused")) {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	d := tpmseal.Device{Path: "/dev/null"}
	if _, err := d.Seal(secret); !errors.Is(err, tpmseal.ErrFIPS140) {
		t.Errorf("Seal: %v", err)
	}
	if !strings.Contains(tpmseal.ErrFIPS140.Error(), "fips140=only") {
		t.Errorf("the error does not say why: %v", tpmseal.ErrFIPS140)
	}
}
