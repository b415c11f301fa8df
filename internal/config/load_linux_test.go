package config_test

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The directory of a ConfigMap has mode 0777 and is mounted read-only: nobody can
// put another file there.
func TestLoadFromAReadOnlyMount(t *testing.T) {
	l := newLoading(t, os.Geteuid() == 0)
	l.chmod("", 0o777)
	if got := l.load("config.yaml"); !strings.Contains(got, "others may write it") {
		t.Fatalf("without the mount: %s", got)
	}
	told := make(chan string)
	go func() {
		// The mount is seen by this thread alone, and goes with it.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = unix.Mount(l.dir, l.dir, "", unix.MS_BIND, "")
		}
		if err == nil {
			err = unix.Mount("", l.dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
		if err != nil {
			told <- "no mount: " + err.Error()
			return
		}
		told <- load(l.path("config.yaml"))
	}()
	switch got := <-told; {
	case strings.HasPrefix(got, "no mount: "):
		t.Skipf("this needs to mount, which root in a container may not: %s", got)
	case got != "well":
		t.Error(got)
	}
}
