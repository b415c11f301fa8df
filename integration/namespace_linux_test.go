package integration_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// ownMounts tells whether the tests have a mount namespace of their own, so that
// what they mount is seen by nobody else and goes away with them. Who started them
// says so, and must be in another one, as far as that can be seen.
func ownMounts() bool {
	own, err := os.Readlink("/proc/self/ns/mnt")
	parents, _ := os.Readlink("/proc/" + strconv.Itoa(os.Getppid()) + "/ns/mnt") // not from a user namespace
	return os.Getenv("KEYBROKER_OWN_MOUNTS") != "" && err == nil && own != parents
}

// hosts is how names are resolved: by a file that is mounted over the system's, and
// beside it by a server that is not there.
type hosts struct {
	t    *testing.T
	path string

	mu     sync.Mutex
	system string // what the file has anyway
	names  map[string]bool
}

// newHosts knows names as the loopback address. It returns nil without ownMounts.
func newHosts(t *testing.T, names ...string) *hosts {
	t.Helper()
	if !ownMounts() {
		return nil
	}
	dir := t.TempDir()
	h := &hosts{t: t, path: filepath.Join(dir, "hosts"), names: map[string]bool{}}
	for _, name := range names {
		h.names[name] = true
	}
	system, err := os.ReadFile("/etc/hosts")
	if err != nil {
		t.Fatal(err)
	}
	h.system = string(system)
	h.write()
	resolver := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(resolver, []byte("nameserver 127.0.0.153\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{h.path: "/etc/hosts", resolver: "/etc/resolv.conf"} {
		if err := syscall.Mount(from, to, "", syscall.MS_BIND, ""); err != nil {
			t.Fatalf("mount %s: %v", to, err)
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(to, syscall.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	return h
}

// forgotten is how long Go goes on by what it has read of the file.
const forgotten = 6 * time.Second

// know has name resolve, or not, from forgotten on.
func (h *hosts) know(name string, known bool) {
	h.mu.Lock()
	h.names[name] = known
	h.mu.Unlock()
	h.write()
}

func (h *hosts) write() {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	var text strings.Builder
	text.WriteString(h.system)
	for name, known := range h.names {
		if known {
			text.WriteString("\n127.0.0.1 " + name)
		}
	}
	text.WriteString("\n")
	if err := os.WriteFile(h.path, []byte(text.String()), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

// volume is a small file system of its own.
type volume struct {
	t   *testing.T
	dir string
}

// newVolume returns nil without ownMounts.
func newVolume(t *testing.T, mebibytes int) *volume {
	t.Helper()
	if !ownMounts() {
		return nil
	}
	v := &volume{t, t.TempDir()}
	if err := syscall.Mount("tmpfs", v.dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC,
		"mode=0700,size="+strconv.Itoa(mebibytes)+"m"); err != nil {
		t.Fatalf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(v.dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return v
}

func (v *volume) ballast() string { return filepath.Join(v.dir, "ballast") }

// fill leaves no room on it.
func (v *volume) fill() {
	v.t.Helper()
	f, err := os.Create(v.ballast())
	if err != nil {
		v.t.Fatal(err)
	}
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err = f.Write(block); errors.Is(err, syscall.ENOSPC) {
			block = block[:len(block)/2]
		} else if err != nil {
			v.t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		v.t.Fatal(err)
	}
}

// free takes fill back.
func (v *volume) free() {
	v.t.Helper()
	if err := os.Remove(v.ballast()); err != nil {
		v.t.Fatal(err)
	}
}

// atUptime returns what starts a command with CLOCK_BOOTTIME set forward.
func atUptime(forward time.Duration) []string {
	return []string{"unshare", "--time", "--boottime", strconv.Itoa(int(forward.Seconds()))}
}

// ownClock tells whether what atUptime returns can be run.
func ownClock() bool {
	args := append(atUptime(time.Hour), "true")
	return exec.Command(args[0], args[1:]...).Run() == nil
}
