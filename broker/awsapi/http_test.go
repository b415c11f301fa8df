package awsapi_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// dial returns a raw connection, over TLS with HTTP/1.1 if f serves that.
func (f *fixture) dial() net.Conn {
	f.t.Helper()
	conn, err := net.Dial("tcp", f.address)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		f.t.Fatal(err)
	}
	if f.config.TLS != nil {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	}
	return conn
}

// raw sends text on a connection of its own and returns the answer.
func (f *fixture) raw(text string) answer {
	f.t.Helper()
	conn := f.dial()
	go func() { _, _ = io.WriteString(conn, text) }()
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		f.t.Fatalf("no answer: %v", err)
	}
	return f.read(response)
}

// TestRawGarbage: nothing that net/http would answer by itself reaches a client.
func TestRawGarbage(t *testing.T) {
	const end = "Host: x\r\n\r\n"
	for _, served := range []struct {
		name   string
		change func(*fixture)
	}{{"http", func(*fixture) {}}, {"https", withTLS}} {
		for _, tc := range []struct{ name, text, code string }{
			{"no request", "hello\r\n\r\n", "SerializationException"},
			{"no version", "POST /\r\n" + end, "SerializationException"},
			{"HTTP/3.0", "POST / HTTP/3.0\r\n" + end, "SerializationException"},
			{"no Host", "POST / HTTP/1.1\r\n\r\n", "SerializationException"},
			{"two Hosts", "POST / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "SerializationException"},
			{"bad Host", "POST / HTTP/1.1\r\nHost: a b\r\n\r\n", "SerializationException"},
			{"bad header name", "POST / HTTP/1.1\r\nA B: x\r\n" + end, "SerializationException"},
			{"bad header value", "POST / HTTP/1.1\r\nA: \x01\r\n" + end, "SerializationException"},
			{"no colon", "POST / HTTP/1.1\r\nA\r\n" + end, "SerializationException"},
			{"bad escape in the path", "POST /%zz HTTP/1.1\r\n" + end, "SerializationException"},
			{"too many headers", "POST / HTTP/1.1\r\nA: " + strings.Repeat("x", 64<<10) + "\r\n" + end, "SerializationException"},
			{"bad Content-Length", "POST / HTTP/1.1\r\nContent-Length: x\r\n" + end, "SerializationException"},
			{"two Content-Lengths", "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n" + end, "SerializationException"},
			{"another transfer coding", "POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n" + end, "SerializationException"},
			{"another expectation", "POST / HTTP/1.1\r\nExpect: tea\r\nContent-Length: 2\r\n" + end + "{}", "SerializationException"},
			{"chunked", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + end + "2\r\n{}\r\n0\r\n\r\n", "SerializationException"},
			{"too large", "POST / HTTP/1.1\r\nContent-Length: 65537\r\n" + end + strings.Repeat(" ", 65537), "SerializationException"},
			{"HTTP/2 without TLS", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "SerializationException"},
			{"OPTIONS *", "OPTIONS * HTTP/1.1\r\n" + end, "MissingAuthenticationTokenException"},
			{"CONNECT", "CONNECT x:1 HTTP/1.1\r\n" + end, "MissingAuthenticationTokenException"},
			{"another path", "POST //a/../b HTTP/1.1\r\nContent-Length: 0\r\n" + end, "MissingAuthenticationTokenException"},
			{"HTTP/1.0", "POST / HTTP/1.0\r\nContent-Length: 2\r\n" + end + "{}", "MissingAuthenticationTokenException"},
		} {
			t.Run(served.name+" "+tc.name, func(t *testing.T) {
				f := newFixture(t, served.change)
				a := f.raw(tc.text)
				f.want(a, tc.code, bad)
				if r := f.last(); r.Event != "denied-at-the-door" || r.Detail == "" {
					t.Errorf("recorded %+v", r)
				}
				if lines := f.logged(); len(lines) != 1 || lines[0]["request_id"] != a.header.Get("X-Amzn-Requestid") || lines[0]["code"] != tc.code {
					t.Errorf("logged %v", lines)
				}
			})
		}
	}
}

// TestPlainHTTPToTLS: the client's endpoint lacks an s, and he is told so.
func TestPlainHTTPToTLS(t *testing.T) {
	f := newFixture(t, withTLS)
	conn, err := net.Dial("tcp", f.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	a := f.read(response)
	f.want(a, "SerializationException", bad)
	if !strings.Contains(a.message(), "https://") {
		t.Errorf("told %q", a.message())
	}
}

// signed is f.request as it goes over the wire.
func (f *fixture) signed(operation, body string) string {
	f.t.Helper()
	var b strings.Builder
	if err := f.request(operation, body).Write(&b); err != nil {
		f.t.Fatal(err)
	}
	return b.String()
}

// TestKeepAlive: many requests, of all sizes and cut anywhere, on one connection.
func TestKeepAlive(t *testing.T) {
	for _, change := range []func(*fixture){func(*fixture) {}, withTLS} {
		f := newFixture(t, change)
		conn := f.dial()
		r := bufio.NewReader(conn)
		for _, size := range []int{0, 1, 100, 3000, 4000, 4096, 5000, 20000, 60000, 2} {
			text := f.signed("GenerateDataKey", fmt.Sprintf(`{"KeyId":"tikv","NumberOfBytes":1024,"x":"%s"}`, strings.Repeat("x", size)))
			go func() {
				for len(text) > 0 {
					n := min(len(text), 700)
					_, _ = io.WriteString(conn, text[:n])
					text = text[n:]
				}
			}()
			response, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			f.want(f.read(response), "", http.StatusOK)
		}
		// Two at once: wiping the first leaves the second alone.
		both := f.signed("ListKeys", `{}`) + f.signed("GenerateDataKey", `{"KeyId":"tikv","KeySpec":"AES_256"}`)
		go func() { _, _ = io.WriteString(conn, both) }()
		for _, member := range []string{"Keys", "Plaintext"} {
			response, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if a := f.read(response); a.fields[member] == nil {
				t.Errorf("no %s: %s", member, a.body)
			}
		}
	}
}

// TestSlowBody: a request that does not come to its end is answered all the same.
func TestSlowBody(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.config.AnswerBy = 100 * time.Millisecond })
	text := f.signed("ListKeys", `{}`)
	f.want(f.raw(text[:len(text)-1]), "DependencyTimeoutException", http.StatusServiceUnavailable)
	if r := f.last(); r.Event != "denied-at-the-door" {
		t.Errorf("recorded %+v", r)
	}
}

// TestShortBody: a client that ends before its body does is told, and on the record.
func TestShortBody(t *testing.T) {
	f := newFixture(t)
	text := f.signed("ListKeys", `{}`)
	conn := f.dial()
	if _, err := io.WriteString(conn, text[:len(text)-1]); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	f.want(f.read(response), "SerializationException", bad)
}

// TestPanic: a defect is an answer that TiKV tries again, and the service goes on.
func TestPanic(t *testing.T) {
	for _, times := range []int32{1, 2} { // in the call, and in its record
		f := newFixture(t)
		f.observer.panics.Store(times)
		a := f.call("ListKeys", `{}`)
		f.want(a, "KMSInternalException", fail)
		if !strings.Contains(f.log.String(), "panic in a call") || !strings.Contains(f.log.String(), a.header.Get("X-Amzn-Requestid")) {
			t.Errorf("logged %s", f.log)
		}
		f.want(f.call("ListKeys", `{}`), "", http.StatusOK)
	}
}

// TestPanicBeforeProof: what befalls a call whose caller is not known yet is on the
// record too.
func TestPanicBeforeProof(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.config.Now = func() time.Time { panic("as the test asked") } })
	f.want(f.call("ListKeys", `{}`), "KMSInternalException", fail)
	if r := f.last(); r.Event != "denied-at-the-door" || r.Client.Method != "ListKeys" || r.Client.Name != "" {
		t.Errorf("recorded %+v", r)
	}
}

// TestHandshake: who fails at TLS is on the record; who only looks whether the port is
// open is not.
func TestHandshake(t *testing.T) {
	f := newFixture(t, withTLS)
	probe, err := net.Dial("tcp", f.address)
	if err != nil {
		t.Fatal(err)
	}
	probe.Close()
	if conn, err := tls.Dial("tcp", f.address, &tls.Config{}); err == nil { // which does not trust it
		conn.Close()
		t.Fatal("a handshake with a stranger")
	}
	f.want(f.call("ListKeys", `{}`), "", http.StatusOK) // and the service goes on
	if err := f.server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	lines := f.logged()
	if len(lines) != 1 || lines[0]["operation"] != "connect" || !strings.HasPrefix(lines[0]["error"].(string), "TLS: ") {
		t.Errorf("logged %v", lines)
	}
}

// TestAcceptFails: a listener that fails for a moment does not end the service, with
// TLS or without; one that fails for good does.
func TestAcceptFails(t *testing.T) {
	for _, change := range []func(*fixture){func(*fixture) {}, withTLS} {
		f := newFixture(t, change)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		f.serveOn(&failingListener{Listener: l, fail: []error{&net.OpError{Op: "accept", Err: syscall.EMFILE}, &net.OpError{Op: "accept", Err: syscall.ECONNABORTED}}})
		f.want(f.call("ListKeys", `{}`), "", http.StatusOK)

		l, err = net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := f.server.Serve(&failingListener{Listener: l, fail: []error{io.ErrClosedPipe}}); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("Serve: %v", err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the listener was left open: %v", err)
		}
	}
}

// failingListener fails before it accepts.
type failingListener struct {
	net.Listener
	fail []error
}

func (l *failingListener) Accept() (net.Conn, error) {
	if len(l.fail) > 0 {
		err := l.fail[0]
		l.fail = l.fail[1:]
		return nil, err
	}
	return l.Listener.Accept()
}

// TestUnwantedBody: of a request that is refused before its body, nobody waits for the
// rest for longer than for an answer.
func TestUnwantedBody(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.config.AnswerBy = 200 * time.Millisecond })
	conn := f.dial()
	if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	f.want(f.read(response), "SerializationException", bad)
	if _, err := reader.ReadByte(); !errors.Is(err, io.EOF) { // or the test's own deadline passes
		t.Errorf("the connection: %v", err)
	}
}

// spyListener keeps what its connections read into and write from.
type spyListener struct {
	net.Listener
	mu      sync.Mutex
	buffers [][]byte
	writes  int
}

type spyConn struct {
	net.Conn
	l *spyListener
}

func (l *spyListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return spyConn{conn, l}, nil
}

func (c spyConn) keep(b []byte) {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.l.buffers = append(c.l.buffers, b)
}

func (c spyConn) Read(b []byte) (int, error) {
	c.keep(b)
	return c.Conn.Read(b)
}

func (c spyConn) Write(b []byte) (int, error) {
	c.keep(b)
	c.l.mu.Lock()
	c.l.writes++
	c.l.mu.Unlock()
	return c.Conn.Write(b)
}

// TestAnswersLeaveInOnePiece: a client that is done with the connection as soon as an
// answer begins has all of it.
func TestAnswersLeaveInOnePiece(t *testing.T) {
	f := newFixture(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	spy := &spyListener{Listener: l}
	f.serveOn(spy)
	for i, body := range []string{`{"NumberOfBytes":1}`, `{"NumberOfBytes":1024}`, `{}`} {
		f.call("GenerateRandom", body)
		spy.mu.Lock()
		if spy.writes != i+1 {
			t.Errorf("%d answers were sent by %d writes", i+1, spy.writes)
		}
		spy.mu.Unlock()
	}
}

// TestNoKeyBytesAreLeft: neither a request's nor an answer's plaintext is still in a
// buffer that the connection was read into or written from, whatever its size. Each
// secret is in the last request of its connection, so that no later one hides it.
func TestNoKeyBytesAreLeft(t *testing.T) {
	plaintext := make([]byte, 4096)
	_, _ = rand.Read(plaintext)
	encrypt := func(size int, more string) func(*fixture) string {
		return func(f *fixture) string {
			text := base64.StdEncoding.EncodeToString(plaintext[:size])
			f.want(f.call("Encrypt", `{"KeyId":"tikv","x":"`+more+`","Plaintext":"`+text+`"}`), "", http.StatusOK)
			return text
		}
	}
	decrypt := func(size int) func(*fixture) string {
		return func(f *fixture) string {
			text := base64.StdEncoding.EncodeToString(plaintext[:size])
			e := f.call("Encrypt", `{"KeyId":"tikv","Plaintext":"`+text+`"}`)
			if d := f.decrypt("tikv", e.text("CiphertextBlob")); d.text("Plaintext") != text {
				f.t.Fatalf("decrypted %s", d.body)
			}
			return text
		}
	}
	for name, call := range map[string]func(*fixture) string{
		"GenerateDataKey": func(f *fixture) string {
			return f.call("GenerateDataKey", `{"KeyId":"tikv","KeySpec":"AES_256"}`).text("Plaintext")
		},
		"GenerateRandom":                      func(f *fixture) string { return f.call("GenerateRandom", `{"NumberOfBytes":1024}`).text("Plaintext") },
		"Decrypt 16":                          decrypt(16),
		"Decrypt 1600":                        decrypt(1600), // the size of net/http's first buffer
		"Decrypt 4096":                        decrypt(4096),
		"Encrypt 16":                          encrypt(16, ""),
		"Encrypt 3000":                        encrypt(3000, ""),
		"Encrypt 4096":                        encrypt(4096, ""),
		"Encrypt read past net/http's buffer": encrypt(4096, strings.Repeat("x", 20000)),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			spy := &spyListener{Listener: l}
			f.serveOn(spy)
			secret := call(f)
			f.client.CloseIdleConnections()
			if err := f.server.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			spy.mu.Lock()
			defer spy.mu.Unlock()
			if len(spy.buffers) < 3 || len(secret) < 16 {
				t.Fatalf("%d buffers were seen", len(spy.buffers))
			}
			for _, b := range spy.buffers {
				for at := 0; at+16 <= len(secret); at += 16 {
					if bytes.Contains(b, []byte(secret[at:at+16])) {
						t.Fatalf("at %d of %d: some is left in a buffer of %d", at, len(secret), len(b))
					}
				}
			}
		})
	}
}

// TestAllBackendsHang: for whatever needs one of them, there is an answer in time, and
// it is one that TiKV tries again.
func TestAllBackendsHang(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.config.AnswerBy = 200 * time.Millisecond })
	blob := f.generate("tikv")
	f.purge()
	f.kms.hang()
	f.want(f.decrypt("tikv", blob), "DependencyTimeoutException", http.StatusServiceUnavailable)
	f.want(f.call("ReEncrypt", `{"DestinationKeyId":"tikv","CiphertextBlob":"`+blob+`"}`), "DependencyTimeoutException", http.StatusServiceUnavailable)
	f.want(f.call("Encrypt", `{"KeyId":"other","Plaintext":"AA=="}`), "DependencyTimeoutException", http.StatusServiceUnavailable)
	f.want(f.call("DescribeKey", `{"KeyId":"tikv"}`), "", http.StatusOK)
}

// FuzzHandler has callers with a right signature send anything: the answer is JSON and
// never one that says that the broker is broken.
func FuzzHandler(f *testing.F) {
	for _, operation := range []string{"GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "Decrypt", "Encrypt", "ReEncrypt", "DescribeKey", "ListKeys", "ListAliases", "GenerateRandom", "CreateKey", ""} {
		for _, body := range []string{
			``, `{}`, `{"KeyId":"tikv","KeySpec":"AES_256","NumberOfBytes":7,"CiphertextBlob":"AQIC","Plaintext":"AA==","DestinationKeyId":"alias/other","Limit":3}`,
			`{"KeyId":"tikv","NumberOfBytes":32,"EncryptionContext":{"a":"b"},"DryRun":true}`, `{"KeyId":"arn:aws:kms:::key/","Marker":"a2V5cyAxIHRpa3Y"}`,
		} {
			f.Add(operation, "application/x-amz-json-1.1", body)
		}
	}
	fixture := newFixture(f)
	f.Fuzz(func(t *testing.T, operation, mediaType, body string) {
		if len(body) > 60000 || strings.Trim(operation+mediaType, printable) != "" {
			t.Skip()
		}
		fixture.t = t
		r := fixture.request(operation, body)
		r.Header.Set("Content-Type", strings.Trim(mediaType, " "))
		r.Header.Set("X-Amz-Target", strings.Trim("TrentService."+operation, " "))
		fixture.sign(r, body, accessKey, secretKey, time.Now())
		response, err := fixture.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		a := answer{status: response.StatusCode, header: response.Header}
		if a.body, err = io.ReadAll(response.Body); err != nil {
			t.Fatal(err)
		}
		checkAnswer(t, a, &a.fields)
		if a.status != http.StatusOK && a.status != http.StatusBadRequest && a.status != http.StatusPreconditionFailed {
			t.Errorf("%d %s", a.status, a.body)
		}
	})
}

const printable = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ./-+;=_"
