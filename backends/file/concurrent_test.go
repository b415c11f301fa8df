package file_test

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends/file"
)

// Processes and goroutines that rotate at once lose no version, and whoever
// unwraps meanwhile always can.
func TestConcurrentRotations(t *testing.T) {
	const processes, goroutines, each = 4, 4, 5
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := newKeyring(t, "main")
	k := newKMS(t, dir)
	first := wrap(t, k, []byte("plaintext"))

	var rotating, unwrapping sync.WaitGroup
	for range processes {
		rotating.Go(func() {
			cmd := exec.Command(self, dir)
			cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", rotateVariable, each))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	for range goroutines {
		rotating.Go(func() {
			for range each {
				if _, err := file.Rotate(dir, "main", rand.Reader, time.Now()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var over atomic.Bool
	for range 2 {
		unwrapping.Go(func() {
			for !over.Load() {
				if got, err := unwrap(t, k, first); err != nil || string(got) != "plaintext" {
					t.Errorf("%q, %v", got, err)
					return
				}
			}
		})
	}
	rotating.Wait()
	over.Store(true)
	unwrapping.Wait()

	infos, err := file.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(infos[0].Versions), 1+(processes+goroutines)*each; got != want {
		t.Errorf("%d versions, want %d", got, want)
	}
	if got := namesIn(t, dir); len(got) != 2 {
		t.Errorf("the directory has %q", got)
	}
}

// A process that is killed while it rotates loses no version that it has said to
// have made, and leaves nothing that is in the way.
func TestKilledWhileItRotates(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := newKeyring(t, "main")
	k := newKMS(t, dir)
	first := wrap(t, k, []byte("plaintext"))
	for round := range 20 {
		cmd := exec.Command(self, dir)
		cmd.Env = append(os.Environ(), rotateVariable+"=1000")
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for range 1 + round%3 {
			lines.Scan()
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		said := 0
		for more := true; more; more = lines.Scan() {
			if n, err := strconv.Atoi(lines.Text()); err == nil {
				said = n
			}
		}
		if err := cmd.Wait(); err == nil || said == 0 {
			t.Fatalf("it was not killed while it rotated: %d, %v", said, err)
		}
		infos, err := file.List(dir)
		if err != nil || len(infos) != 1 || len(infos[0].Versions) < said {
			t.Fatalf("it has said %d versions, and now: %v, %v", said, infos, err)
		}
		if got, err := unwrap(t, k, first); err != nil || string(got) != "plaintext" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	rotate(t, dir, "main")
	if got := namesIn(t, dir); len(got) != 2 {
		t.Errorf("the directory has %q", got)
	}
}

// Of many that create the same key, one does.
func TestConcurrentCreates(t *testing.T) {
	dir := newKeyring(t)
	var made atomic.Int32
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if _, err := file.Create(dir, "main", rand.Reader, time.Now()); err == nil {
				made.Add(1)
			}
		})
		all.Go(func() { _, _ = file.Create(dir, "other", rand.Reader, time.Now()) })
	}
	all.Wait()
	infos, err := file.List(dir)
	if err != nil || len(infos) != 2 || made.Load() != 1 {
		t.Fatalf("%d made main; %v, %v", made.Load(), infos, err)
	}
	if a, b := infos[0].Reference, infos[1].Reference; a[:32] != b[:32] {
		t.Errorf("one keyring has two ids: %s, %s", a, b)
	}
}
