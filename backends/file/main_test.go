package file_test

import (
	"crypto/rand"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keybroker/keybroker/backends/file"
)

// rotateVariable makes a process of this binary rotate, so often, the key "main"
// of the directory that its argument names. It says each version that it has made.
const rotateVariable = "KEYBROKER_TEST_ROTATE"

func TestMain(m *testing.M) {
	if n, err := strconv.Atoi(os.Getenv(rotateVariable)); err == nil {
		os.Exit(rotateInChild(os.Args[1], n))
	}
	goleak.VerifyTestMain(m)
}

func rotateInChild(dir string, n int) int {
	for range n {
		info, err := file.Rotate(dir, "main", rand.Reader, time.Now())
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println(len(info.Versions))
	}
	return 0
}

// newKeyring makes a keyring with keys and returns its directory.
func newKeyring(t *testing.T, keys ...string) string {
	t.Helper()
	dir := t.TempDir() + "/keyring"
	for _, key := range keys {
		if _, err := file.Create(dir, key, rand.Reader, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// newKMS returns a KMS of the keyring in dir.
func newKMS(t *testing.T, dir string) *file.KMS {
	t.Helper()
	k, err := file.New(file.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

func rotate(t *testing.T, dir, key string) file.KeyInfo {
	t.Helper()
	info, err := file.Rotate(dir, key, rand.Reader, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
