package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

const stranger = 4242

// dialAs connects to a socket as another user.
func dialAs(uid uintptr, socket string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result)
	go func() {
		// The thread is not unlocked, so that it ends with the goroutine: nothing
		// else may run as that user.
		runtime.LockOSThread()
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, uid, uid, uid); errno != 0 {
			done <- result{nil, errno}
			return
		}
		conn, err := net.Dial("unix", socket)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// TestFlood: a local user without any right sends the broker calls with large and
// strange contents, what is no call at all, and more connections than he may have,
// as fast as he can. The log grows by no more than the refusals that are written in
// full and their sums, which account for all of them, and other clients are served.
func TestFlood(t *testing.T) {
	needRoot(t, "becoming another user")
	b := newBroker(t, "", "")
	b.configure(fileBackend(t))
	b.start()
	b.openToAll()
	load := beginLoad(t, b, true)
	load.until("calls are answered", func(l *auditLoad) bool { return len(l.answered) > 20 })

	began := time.Now()
	var group sync.WaitGroup
	var mu sync.Mutex
	refused := 0
	const connections, each = 8, 300
	for range connections {
		group.Go(func() {
			conn, err := grpc.NewClient("passthrough:///flood", grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return dialAs(stranger, b.socket) }))
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = conn.Close() }()
			for n := range each {
				err := strangeCall(t.Context(), conn, n)
				switch status.Code(err) {
				case codes.PermissionDenied:
					mu.Lock()
					refused++
					mu.Unlock()
				case codes.InvalidArgument, codes.ResourceExhausted, codes.Unimplemented, codes.Unavailable:
				default:
					t.Errorf("a stranger's call %d: %v", n, err)
					return
				}
			}
		})
	}
	group.Go(func() {
		for range 500 {
			noise(b.socket)
		}
	})
	group.Go(func() {
		var open []net.Conn
		for range 1100 { // more than one user may have open
			if conn, err := dialAs(stranger, b.socket); err == nil {
				open = append(open, conn)
			}
		}
		for _, conn := range open {
			_ = conn.Close()
		}
	})
	group.Wait()
	load.restartCount()
	load.until("other clients are served", func(l *auditLoad) bool { return len(l.answered) > 20 })
	load.end()
	took := time.Since(began)
	b.stop()
	if load.refusedInAll > 0 {
		t.Errorf("%d calls of a client were refused", load.refusedInAll)
	}
	if refused < connections*each/2 {
		t.Fatalf("only %d of the stranger's calls were refused for what he is", refused)
	}

	lines, size, accounted := recordsOf(t, b.auditFiles(), stranger)
	minutes := int(took/time.Minute) + 1
	// Ten a minute and their sum, and the sum that the end of the broker writes.
	if most := 11*(minutes+1) + 1; lines > most || size > most*8192 {
		t.Errorf("%d calls in %v left %d records of %d bytes; %d records are the most", refused, took, lines, size, most)
	}
	if accounted < refused {
		t.Errorf("%d of %d refusals are accounted for", accounted, refused)
	}
	b.wantWhole(b.auditFiles())
	load.wantRecorded(b.auditFiles(), time.Time{}, time.Now())
	t.Logf("%d refusals in %v: %d records of %d bytes", accounted, took.Round(time.Millisecond), lines, size)
}

// strangeCall makes the nth call of somebody who tries what he can.
func strangeCall(ctx context.Context, conn *grpc.ClientConn, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	keys, admin := keybrokerv1.NewKeyBrokerClient(conn), keybrokerv1.NewAdminClient(conn)
	var err error
	switch n % 6 {
	case 0:
		_, err = keys.GenerateDataKey(ctx, &keybrokerv1.GenerateDataKeyRequest{KeyName: fmt.Sprint("key-", n), Context: map[string]string{"x": strings.Repeat("\x01", 60_000)}})
	case 1:
		_, err = keys.UnwrapKey(ctx, &keybrokerv1.UnwrapKeyRequest{WrappedKey: bytes.Repeat([]byte{byte(n)}, 4000)})
	case 2:
		many := map[string]string{}
		for range 100 {
			many[fmt.Sprint(rand.Uint64())] = strings.Repeat("v", 100)
		}
		_, err = keys.GenerateDataKey(ctx, &keybrokerv1.GenerateDataKeyRequest{KeyName: "main", Context: many})
	case 3:
		_, err = admin.GetStatus(ctx, &keybrokerv1.GetStatusRequest{})
	case 4:
		err = conn.Invoke(ctx, "/"+strings.Repeat("x", 4000)+"/"+fmt.Sprint(n), &keybrokerv1.GetStatusRequest{}, &keybrokerv1.GetStatusResponse{})
	case 5:
		_, err = admin.PurgeCache(ctx, &keybrokerv1.PurgeCacheRequest{Force: true})
	}
	return err
}

// noise is a connection on which there is no call.
func noise(socket string) {
	conn, err := dialAs(stranger, socket)
	if err != nil {
		return
	}
	defer conn.Close()
	text := make([]byte, 1+rand.IntN(4096))
	for i := range text {
		text[i] = byte(rand.Uint32())
	}
	if rand.IntN(2) == 0 {
		text = append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), text...)
	}
	_, _ = conn.Write(text)
}

// recordsOf counts the records of a user, their bytes, and the calls that they
// account for.
func recordsOf(t *testing.T, files []string, uid int) (lines, size, calls int) {
	t.Helper()
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		for line := range bytes.Lines(text) {
			var r struct {
				Count  int
				Client struct{ UID int }
			}
			if json.Unmarshal(line, &r) == nil && r.Client.UID == uid {
				lines++
				size += len(line)
				calls += max(1, r.Count)
			}
		}
	}
	return lines, size, calls
}
