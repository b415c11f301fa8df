package main

import (
	"bytes"
	"crypto/fips140"
	"crypto/rand"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// persist has the cache kept in a sealed file, and handed over by nobody.
func (m *manager) persist(sealer string) {
	m.t.Helper()
	m.configure("off, persist: {path: " + m.path("cache.sealed") + ", " + sealer + ", max_age: 1h}")
}

// keyFile makes a key file as systemd would, and returns the line that names it.
func (m *manager) keyFile() string {
	m.t.Helper()
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	if err := os.WriteFile(m.path("cache-key"), key, 0o600); err != nil {
		m.t.Fatal(err)
	}
	return "key_file: " + m.path("cache-key")
}

// tpm starts a software TPM and returns the line that names it.
func (m *manager) tpm() string {
	m.t.Helper()
	if fips140.Enforced() {
		m.t.Skip("GODEBUG=fips140=only does not allow AES-CFB")
	}
	program, err := exec.LookPath("swtpm")
	if err != nil {
		if os.Getenv("CI") != "" {
			m.t.Fatal("swtpm is not installed")
		}
		m.t.Skip("swtpm is not installed (Debian: apt-get install swtpm)")
	}
	cmd := exec.Command(program, "socket", "--tpm2", "--tpmstate", "dir="+m.t.TempDir(), "--server", "type=unixio,path="+m.path("tpm"),
		"--ctrl", "type=unixio,path="+m.path("tpm-control"), "--flags", "not-need-init,startup-clear")
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("unix", m.path("tpm")); err == nil {
			conn.Close()
			return "tpm: " + m.path("tpm")
		}
		if time.Since(began) > 10*time.Second {
			m.t.Fatal("swtpm does not answer")
		}
	}
}

// With its KMS away and nobody to hand it over, a broker that is killed opens after
// that what it could open before, until it is told to forget.
func TestSealedFileOutlivesRestarts(t *testing.T) {
	for name, sealer := range map[string]func(*manager) string{"a key file": (*manager).keyFile, "a TPM": (*manager).tpm} {
		t.Run(name, func(t *testing.T) {
			m := newManager(t)
			m.persist(sealer(m))
			m.start()
			m.wantStart("intermediate keys of the sealed file: 0 restored, 0 dropped")
			wrapped := m.path("wrapped")
			plaintext := m.must("generate", "main", "--raw", "--out", wrapped)
			m.outage()
			m.end(syscall.SIGTERM)
			for range 2 {
				m.start()
				m.wantStart("intermediate keys of the sealed file: 1 restored, 0 dropped")
				if got := m.must("unwrap", wrapped, "--raw"); got != plaintext {
					t.Fatal("it is another data key")
				}
				if _, code := m.run("generate", "main"); code != exitUnavailable {
					t.Errorf("a data key was made under a restored key, or exit code %d", code)
				}
				m.end(syscall.SIGKILL)
			}
			m.start()
			m.must("purge", "--force", "main")
			m.end(syscall.SIGKILL)
			m.start()
			m.wantStart("intermediate keys of the sealed file: 0 restored, 0 dropped")
			if _, code := m.run("unwrap", wrapped, "--raw"); code != exitUnavailable {
				t.Errorf("exit code %d: a restart brought back what was purged", code)
			}
			audit, err := os.ReadFile(m.path("audit.jsonl"))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(audit, []byte("intermediate keys in the sealed file: 1")) {
				t.Error("the stop record does not say what is in the file")
			}
		})
	}
}

// A file that cannot be opened, or a new one that cannot be made, keeps nothing from
// starting; and what could not be maintained does not stay.
func TestSealedFileOfNoUse(t *testing.T) {
	m := newManager(t)
	key := m.keyFile()
	m.persist(key)
	m.start()
	wrapped := m.path("wrapped")
	m.must("generate", "main", "--raw", "--out", wrapped)
	m.end(syscall.SIGTERM)
	whole, err := os.ReadFile(m.path("cache.sealed"))
	if err != nil {
		t.Fatal(err)
	}

	m.keyFile() // another
	m.start()
	m.wantStart("the sealed file is ignored: its key cannot be unsealed: another key file sealed it, or it is damaged")
	m.must("unwrap", wrapped, "--raw")
	m.end(syscall.SIGKILL)

	m.persist("tpm: " + m.path("no-tpm"))
	if err := os.WriteFile(m.path("cache.sealed"), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	m.start()
	m.wantStart("the cache is kept in no sealed file: ")
	m.must("unwrap", wrapped, "--raw")
	if _, err := os.Stat(m.path("cache.sealed")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old file is there still: %v", err)
	}
	if log := m.log(); !strings.Contains(log, "kept in no sealed file until a restart") {
		t.Errorf("the log says %s", log)
	}
}

// Within a start that fails, the file stays for the next one.
func TestSealedFileOutlivesAFailedStart(t *testing.T) {
	m := newManager(t)
	m.persist(m.keyFile())
	m.start()
	wrapped := m.path("wrapped")
	plaintext := m.must("generate", "main", "--raw", "--out", wrapped)
	m.outage()
	m.end(syscall.SIGTERM)
	// A directory where the socket should be.
	if err := os.MkdirAll(m.path("kb.sock/x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("keybroker", "serve", "-c", m.path("config.yaml")).CombinedOutput(); err == nil {
		t.Fatalf("it started: %s", out)
	}
	if err := os.RemoveAll(m.path("kb.sock")); err != nil {
		t.Fatal(err)
	}
	m.start()
	m.wantStart("intermediate keys of the sealed file: 1 restored, 0 dropped")
	if got := m.must("unwrap", wrapped, "--raw"); got != plaintext {
		t.Error("it is another data key")
	}
}
