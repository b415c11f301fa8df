package main

import (
	"crypto/fips140"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"keybroker": main})
}

// TestScripts runs the command line as a user does, each script in a directory of
// its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			// A unix socket's path is short; so is this one.
			dir, err := os.MkdirTemp("", "kb")
			if err != nil {
				return err
			}
			env.Defer(func() { _ = os.RemoveAll(dir) })
			env.Setenv("KB", dir)
			env.Setenv("NO_COLOR", "1")
			env.Setenv("GODEBUG", os.Getenv("GODEBUG"))
			env.Setenv("GORACE", "atexit_sleep_ms=0") // with -race, every command would end a second late
			if err := os.Chmod(env.WorkDir, 0o700); err != nil {
				return err
			}
			return os.Chmod(dir, 0o700)
		},
		Condition: func(name string) (bool, error) {
			if name == "fips" {
				return fips140.Enforced(), nil
			}
			return false, fmt.Errorf("no such condition: %s", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"waitfor": waitForSocket,
			"code":    exitCodeOf,
			"listen":  listenOn,
			"keep":    keepPosts,
		},
	})
}

// waitForSocket waits until a broker answers on a socket.
func waitForSocket(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: waitfor SOCKET")
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("unix", ts.MkAbs(args[0])); err == nil {
			_ = conn.Close()
			return
		}
	}
	ts.Fatalf("no broker answers on %s", args[0])
}

// exitCodeOf runs a command and holds its exit code: code N COMMAND...
func exitCodeOf(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		exit, ok := err.(*exec.ExitError) //nolint:errorlint // testscript returns it as it is
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.String()[len("exit status "):]
	}
	if got != args[0] {
		ts.Fatalf("%s exited with %s, want %s", strings.Join(args[1:], " "), got, args[0])
	}
}

// listenOn takes a TCP address of this host until the script ends, and puts it
// into a variable: listen NAME
func listenOn(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: listen NAME")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = l.Close() })
	ts.Setenv(args[0], l.Addr().String())
}

// keepPosts serves HTTP until the script ends, appends the body of every POST that has
// the token to a file, and puts the URL into a variable: keep NAME FILE TOKEN
func keepPosts(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: keep NAME FILE TOKEN")
	}
	path := ts.MkAbs(args[1])
	var mu sync.Mutex
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost || r.Header.Get("Authorization") != "Bearer "+args[2] {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err == nil {
			_, err = f.Write(body)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	ts.Defer(server.Close)
	ts.Setenv(args[0], server.URL+"/heads")
}
