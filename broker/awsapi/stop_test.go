package awsapi_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
)

// TestStopDrains: what is under way is answered, and nothing new is taken. A
// connection that says nothing keeps nobody waiting.
func TestStopDrains(t *testing.T) {
	for _, change := range []func(*fixture){func(*fixture) {}, withTLS} {
		f := newFixture(t, change)
		silent := f.dial()
		hangs := f.kms.hang()
		underWay := make(chan answer, 1)
		request := f.request("GenerateDataKey", `{"KeyId":"tikv","KeySpec":"AES_256"}`)
		go func() { underWay <- f.send(request) }()
		<-hangs
		stopped := make(chan error, 1)
		go func() { stopped <- f.server.Stop(context.Background()) }()
		if _, err := silent.Read(make([]byte, 1)); err == nil {
			t.Error("a silent connection was told something")
		}
		select {
		case err := <-stopped:
			t.Fatalf("Stop returned while a call was under way: %v", err)
		default:
		}
		f.kms.resume()
		f.want(<-underWay, "", http.StatusOK)
		if err := <-stopped; err != nil {
			t.Errorf("Stop: %v", err)
		}
		if conn, err := net.Dial("tcp", f.address); err == nil {
			conn.Close()
			t.Error("a connection after Stop")
		}
	}
}

// TestStopCutsOff: a call that hangs ends with the drain's deadline, and is on the
// record.
func TestStopCutsOff(t *testing.T) {
	for _, change := range []func(*fixture){func(*fixture) {}, withTLS} {
		f := newFixture(t, change)
		hangs := f.kms.hang()
		request := f.request("GenerateDataKey", `{"KeyId":"tikv","KeySpec":"AES_256"}`)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			response, err := f.client.Do(request)
			if err == nil { // or it was cut off
				_, _ = io.Copy(io.Discard, response.Body)
				response.Body.Close()
			}
		}()
		<-hangs
		now, cancel := context.WithCancel(context.Background())
		cancel()
		if err := f.server.Stop(now); !errors.Is(err, context.Canceled) {
			t.Errorf("Stop: %v", err)
		}
		if r := f.last(); r.Event != "generate" || r.Outcome != "error" {
			t.Errorf("recorded %+v", r)
		}
		<-ended
	}
}

// TestServeAfterStop: a Server that was stopped serves no more, and closes what it is
// given.
func TestServeAfterStop(t *testing.T) {
	for _, change := range []func(*fixture){func(*fixture) {}, withTLS} {
		f := newFixture(t, change)
		if err := f.server.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := f.server.Serve(l); err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the listener was left open: %v", err)
		}
	}
}
