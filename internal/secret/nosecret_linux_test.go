package secret_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/keybroker/keybroker/internal/secret"
)

// withoutMemfdSecret makes this thread see a kernel without memfd_secret(2).
func withoutMemfdSecret(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // and never unlock: the thread ends with the test
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_MEMFD_SECRET},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		t.Fatal(err)
	}
	runtime.KeepAlive(filter)
}

// Without memfd_secret(2) it is ordinary memory of a fixed size, and only where that
// cannot be swapped.
func TestSharedWithoutMemfdSecret(t *testing.T) {
	const child = "KEYBROKER_TEST_WITHOUT_MEMFD_SECRET"
	if os.Getenv(child) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestSharedWithoutMemfdSecret$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	withoutMemfdSecret(t)
	s, err := secret.NewShared(1)
	if errors.Is(err, secret.ErrSwap) {
		var info unix.Sysinfo_t
		if err := unix.Sysinfo(&info); err != nil || info.Totalswap == 0 {
			t.Errorf("it says that there is swap: %d bytes, %v", info.Totalswap, err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Kind() != secret.Memfd {
		t.Fatalf("it is %s", s.Kind())
	}
	for _, size := range []int64{0, 1 << 20} {
		if err := s.File().Truncate(size); err == nil {
			t.Errorf("it can be resized to %d bytes", size)
		}
	}
	copy(s.Bytes(), filled(0x77))
	again, err := secret.OpenShared(duplicate(t, s.File()), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.Kind() != secret.Memfd || !bytes.HasPrefix(again.Bytes(), filled(0x77)) {
		t.Errorf("%s, or not what was in it", again.Kind())
	}
}
