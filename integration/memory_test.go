package integration_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/file"
	"github.com/keybroker/keybroker/broker/envelope"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// TestMemoryHoldsNoCopies searches the memory of the running daemon for a data key,
// its intermediate key and the key derived from that, outside of the arena. It
// prints the table that docs/memory.md has.
func TestMemoryHoldsNoCopies(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("reading another process's memory needs root")
		}
		t.Skip("reading another process's memory needs root")
	}
	keyring, keys := fileBackend(t)
	b := newBroker(t, keyring, keys)
	admin := freePort(t)
	b.listenAdmin(admin)
	b.start()
	dir := keyring[strings.Index(keyring, "path: ")+len("path: ") : len(keyring)-1]

	target := b.generate("main")
	secrets := secretsOf(t, dir, target)
	status, err := b.admin().GetStatus(t.Context(), &keybrokerv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if kind := status.GetMemory().GetArena(); kind != "memfd_secret" {
		t.Logf("the arena is %s: what it holds is counted too", kind)
	}

	const connections = 4
	clients := make([]keybrokerv1.KeyBrokerClient, connections)
	for i := range clients {
		conn, err := grpc.NewClient("unix://"+b.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		clients[i] = keybrokerv1.NewKeyBrokerClient(conn)
	}
	inArena := 0
	if status.GetMemory().GetArena() != "memfd_secret" {
		inArena = 1
	}
	var at []found
	t.Logf("%8s %-10s %6s %6s %8s", "calls", "", "DEK", "IK", "derived")
	done := 0
	for _, calls := range []int{1, 100, 1_000, 10_000} {
		unwrapAll(t, clients, target, calls-done)
		done = calls
		before := search(t, b.cmd.Process.Pid, secrets)
		collectGarbage(t, b, admin)
		after := search(t, b.cmd.Process.Pid, secrets)
		t.Logf("%8d %-10s %6d %6d %8d", calls, "before GC", before.dek, before.ik, before.derived)
		t.Logf("%8d %-10s %6d %6d %8d", calls, "after GC", after.dek, after.ik, after.derived)
		if after.saved > 0 {
			t.Logf("and %d in what the kernel saved of registers", after.saved)
		}
		// The connection of generate is one more.
		if before.dek > connections+1 {
			t.Errorf("%d copies of the data key before GC, over %d connections", before.dek, connections+1)
		}
		if after.dek != 0 {
			t.Errorf("%d copies of the data key after GC", after.dek)
		}
		if after.ik > inArena+maxIK {
			t.Errorf("%d copies of the intermediate key after GC", after.ik-inArena)
		}
		at = append(at, before, after)
	}
	// A thousand calls are more than one GC cycle. What grows with calls is ten
	// times as much after ten times as many.
	for i, name := range []string{"before GC", "after GC"} {
		thousand, tenThousand := at[4+i], at[6+i]
		if tenThousand.derived > 3*thousand.derived+10 {
			t.Errorf("%s: %d copies of the derived key after 1,000 calls, %d after 10,000: they grow with calls", name, thousand.derived, tenThousand.derived)
		}
	}
}

// maxIK is how many copies of the intermediate key may be left outside of the
// arena: what a stack that is not in use still shows.
const maxIK = 2

// secrets are what is searched for.
type secrets struct{ dek, ik, derived []byte }

// found counts copies; saved are those of the data key that are the registers of a
// thread, as the kernel saves them when a signal meets it.
type found struct{ dek, saved, ik, derived int }

// secretsOf opens a wrapped key without the broker: it has the keyring.
func secretsOf(t *testing.T, keyring string, k dataKey) secrets {
	t.Helper()
	env, err := envelope.Parse(k.wrapped)
	if err != nil {
		t.Fatal(err)
	}
	kms, err := file.New(file.Config{Dir: keyring})
	if err != nil {
		t.Fatal(err)
	}
	defer kms.Close()
	part := env.IK()
	r := part.Recipients()[0]
	ik, err := kms.Unwrap(t.Context(), backends.UnwrapRequest{
		Key: "main", Reference: r.Reference, Version: r.Version, Binding: r.Binding, Ciphertext: r.Wrapped,
		Pairs: part.Associated().Map(), AssociatedData: part.Associated().Canonical(),
	})
	if err != nil {
		t.Fatal(err)
	}
	// docs/envelope.md: the header is all before the length of the plaintext; the
	// salt is its end.
	header := k.wrapped[:len(k.wrapped)-(2+12+len(k.plaintext)+16)]
	sum := sha256.Sum256(header)
	derived, err := hkdf.Key(sha256.New, ik, header[len(header)-32:], "keybroker/v1/seal"+string(sum[:]), 32)
	if err != nil {
		t.Fatal(err)
	}
	return secrets{dek: k.plaintext, ik: ik, derived: derived}
}

// unwrapAll opens k n times over all clients, eight calls at a time on each.
func unwrapAll(t *testing.T, clients []keybrokerv1.KeyBrokerClient, k dataKey, n int) {
	t.Helper()
	work := make(chan keybrokerv1.KeyBrokerClient)
	var wg sync.WaitGroup
	for range min(n, 8*len(clients)) {
		wg.Go(func() {
			for c := range work {
				if _, err := c.UnwrapKey(context.Background(), &keybrokerv1.UnwrapKeyRequest{WrappedKey: k.wrapped, Context: map[string]string{"test": t.Name()}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range n {
		work <- clients[i%len(clients)]
	}
	close(work)
	wg.Wait()
}

// collectGarbage makes calls that have nothing to do with keys until the daemon
// has collected its garbage three times: two empty its pools, one more frees what
// was being swept.
func collectGarbage(t *testing.T, b *broker, admin string) {
	t.Helper()
	h := healthpb.NewHealthClient(b.conn)
	for target := gcCycles(t, admin) + 3; gcCycles(t, admin) < target; {
		for range 2000 {
			if _, err := h.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// gcCycles reads the daemon's own metric.
func gcCycles(t *testing.T, admin string) int {
	t.Helper()
	r, err := http.Get("http://" + admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	for scan := bufio.NewScanner(r.Body); scan.Scan(); {
		if text, ok := strings.CutPrefix(scan.Text(), "go_gc_duration_seconds_count "); ok {
			n, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
	}
	t.Fatal("the metrics do not tell of GC cycles")
	return 0
}

// search counts the secrets in the memory of a process.
func search(t *testing.T, pid int, s secrets) (f found) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "mem"))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	read := int64(0)
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil || mode[0] != 'r' || from < 0 {
			continue
		}
		const chunk, overlap = 4 << 20, 64
		for at := from; at < to; at += chunk {
			b := make([]byte, min(chunk+overlap, to-at))
			n, err := mem.ReadAt(b, at)
			if err != nil && !errors.Is(err, io.EOF) && n == 0 {
				break // not to be read: memfd_secret, vvar
			}
			b = b[:n]
			read += int64(n)
			// A copy that begins in the overlap is counted with the next chunk.
			limit := min(n, chunk)
			saved := countSaved(b, s.dek, limit)
			f.saved += saved
			f.dek += count(b, s.dek, limit) - saved
			f.ik += count(b, s.ik, limit)
			f.derived += count(b, s.derived, limit)
		}
	}
	if read < 1<<16 {
		t.Fatalf("only %d bytes of the process could be read", read)
	}
	return f
}

// count counts the copies of secret that begin before limit.
func count(b, secret []byte, limit int) (n int) {
	for at := 0; ; {
		i := bytes.Index(b[at:], secret)
		if i < 0 || at+i >= limit {
			return n
		}
		n++
		at += i + 1
	}
}

// countSaved counts those copies of secret that stand in the vector registers of a signal
// frame. Go preempts by signals, and a copy of 32 bytes goes through two registers: what
// they held stays on the thread's signal stack until its next signal. Nobody can wipe it.
// (Intel SDM, vol. 1, 10.5.1: the legacy region of XSAVE has MXCSR_MASK at byte 28 and
// the sixteen XMM registers from byte 160 on.)
func countSaved(b, secret []byte, limit int) (n int) {
	const mask, registers, size = 28, 160, 16
	for at := 0; ; {
		i := bytes.Index(b[at:], secret)
		if i < 0 || at+i >= limit {
			return n
		}
		for r := range 16 {
			frame := at + i - registers - r*size
			if frame >= 0 && bytes.Equal(b[frame+mask:frame+mask+4], []byte{0xff, 0xff, 2, 0}) {
				n++
				break
			}
		}
		at += i + 1
	}
}

// TestSearchFinds holds that the search finds a copy in another process where
// there is one: in its environment.
func TestSearchFinds(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("reading another process's memory needs root")
	}
	there, not := rand.Text(), rand.Text()
	cmd := exec.Command("sleep", "60")
	cmd.Env = append(os.Environ(), "NEEDLE="+there)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	f := search(t, cmd.Process.Pid, secrets{dek: []byte(there), ik: []byte(not), derived: []byte(not)})
	if f.dek < 1 || f.ik != 0 || f.derived != 0 {
		t.Errorf("%+v; want at least one copy of the first and none of the others", f)
	}
}

// freePort is an address that nobody listens on now.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
