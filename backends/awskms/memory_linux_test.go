package awskms_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awskms"
)

// Of the key bytes of a wrap and an unwrap nothing is left on the heap when the
// caller has wiped its own, neither as they are nor in base64. There are no
// sockets here, whose buffers cannot be wiped.
func TestNothingIsLeft(t *testing.T) {
	isolate(t)
	c := &cannedTransport{}
	k := open(t, awskms.WithTransport(awskms.Config{Region: region}, c))
	for range 3 {
		plaintext := randomBytes(48)
		raw, text := hide(plaintext), hideBase64(plaintext)
		if n := copies(t, raw); n == 0 {
			t.Fatal("the plaintext is not found where it is")
		}
		if _, err := k.Wrap(t.Context(), backends.WrapRequest{Key: tikv, Plaintext: plaintext, Pairs: somePairs()}); err != nil {
			t.Fatal(err)
		}
		clear(plaintext)
		if r, b := copies(t, raw), copies(t, text); r != 0 || b != 0 {
			t.Errorf("after Wrap: %d copies, and %d in base64", r, b)
		}

		c.secret = raw
		got, err := k.Unwrap(t.Context(), backends.UnwrapRequest{Key: tikv, Reference: tikv, Binding: backends.BindingAAD, Ciphertext: []byte{1}, Pairs: somePairs()})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(hide(got), raw) {
			t.Fatal("Unwrap gives something else")
		}
		clear(got)
		if r, b := copies(t, raw), copies(t, text); r != 0 || b != 0 {
			t.Errorf("after Unwrap: %d copies, and %d in base64", r, b)
		}
	}
	// A reply that is refused is wiped too.
	long := randomBytes(65)
	c.secret = hide(long)
	raw, text := hide(long), hideBase64(long)
	clear(long)
	if err := k.Check(t.Context(), tikv); backends.ClassOf(err) != backends.Internal {
		t.Errorf("Check: %v", err)
	}
	if r, b := copies(t, raw), copies(t, text); r != 0 || b != 0 {
		t.Errorf("after a refusal: %d copies, and %d in base64", r, b)
	}
}

// hide returns b with each bit turned round, so that it is not found.
func hide(b []byte) []byte {
	out := make([]byte, len(b))
	for i := range b {
		out[i] = ^b[i]
	}
	return out
}

func hideBase64(b []byte) []byte {
	text := base64.StdEncoding.AppendEncode(make([]byte, 0, 128), b)
	defer clear(text)
	return hide(text)
}

// cannedTransport answers without any server, and keeps nothing.
type cannedTransport struct {
	secret []byte // hidden; what Decrypt answers
}

func (c *cannedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	buf := make([]byte, 512)
	for {
		if _, err := r.Body.Read(buf); err != nil {
			break
		}
	}
	clear(buf)
	body := []byte(`{"KeyId":"` + tikv + `","CiphertextBlob":"AQEB"}`)
	if strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".Decrypt") {
		secret := hide(c.secret)
		body = append(make([]byte, 0, 512), `{"KeyId":"`+tikv+`","Plaintext":"`...)
		body = append(base64.StdEncoding.AppendEncode(body, secret), `"}`...)
		clear(secret)
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: &wipedBody{body, 0}, Request: r}, nil
}

// wipedBody is an answer that is wiped as it is read.
type wipedBody struct {
	b  []byte
	at int
}

func (w *wipedBody) Read(p []byte) (int, error) {
	if w.at == len(w.b) {
		return 0, io.EOF
	}
	n := copy(p, w.b[w.at:])
	clear(w.b[w.at : w.at+n])
	w.at += n
	return n, nil
}

func (w *wipedBody) Close() error { return nil }

// copies counts what hidden hides on Go's heap, garbage included.
func copies(t *testing.T, hidden []byte) int {
	t.Helper()
	runtime.GC()
	const size = 1 << 20
	// Not on the heap, so that it is not found there.
	buf, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Munmap(buf) }()
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		unseen(t, "this machine does not let a process look at its own memory: ", err)
	}
	defer mem.Close()
	found := 0
	for _, r := range heap(t) {
		step := size - len(hidden) + 1
		for at := r[0]; at < r[1]; at += uint64(step) {
			n, _ := mem.ReadAt(buf[:min(size, r[1]-at)], int64(at))
			found += count(buf[:n], hidden)
		}
	}
	return found
}

// unseen skips a search that cannot be made, but not where CI relies on it.
func unseen(t *testing.T, why ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why...)
	}
	t.Skip(why...)
}

func count(in, hidden []byte) int {
	n := 0
	first := ^hidden[0]
	for at := 0; ; at++ {
		i := bytes.IndexByte(in[at:], first)
		if i < 0 || at+i+len(hidden) > len(in) {
			return n
		}
		at += i
		same := 0
		for same < len(hidden) && in[at+same] == ^hidden[same] {
			same++
		}
		if same == len(hidden) {
			n++
		}
	}
}

// heap lists the mappings where Go's heap is: its arenas lie side by side, so they
// are near any of its objects.
func heap(t *testing.T) [][2]uint64 {
	t.Helper()
	const near = 1 << 32
	object := uint64(uintptr(unsafe.Pointer(new([1 << 16]byte))))
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		unseen(t, "this machine does not show mappings: ", err)
	}
	defer maps.Close()
	var found [][2]uint64
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		span, rest, _ := strings.Cut(lines.Text(), " ")
		from, to, _ := strings.Cut(span, "-")
		begin, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err1 != nil || err2 != nil {
			t.Fatal(fmt.Errorf("a mapping: %q", lines.Text()))
		}
		if strings.HasPrefix(rest, "rw") && begin < object+near && end+near > object {
			found = append(found, [2]uint64{begin, end})
		}
	}
	return found
}
