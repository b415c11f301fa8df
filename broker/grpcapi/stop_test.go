package grpcapi_test

import (
	"context"
	"errors"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keybroker/keybroker/broker"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// TestStopDrains: health says so at once, streams end, what is under way may
// finish, and nothing new is taken.
func TestStopDrains(t *testing.T) {
	f := newFixture(t)
	daemon, key := f.watch(t.Context(), ""), f.watch(t.Context(), "tikv")
	daemon.want(serving)
	key.want(serving)
	tail, err := f.admin.TailAudit(t.Context(), &keybrokerv1.TailAuditRequest{Last: 1})
	if err != nil {
		t.Fatal(err)
	}

	hangs := f.kms.hang()
	underWay := make(chan error, 1)
	go func() {
		_, err := f.keys.GenerateDataKey(t.Context(), &keybrokerv1.GenerateDataKeyRequest{KeyName: "tikv"})
		underWay <- err
	}()
	<-hangs
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		f.server.Stop(context.Background())
	}()

	for _, w := range []watch{daemon, key} {
		w.want(notServing)
		if _, err := w.stream.Recv(); status.Code(err) != codes.Unavailable {
			t.Errorf("a watch ended with %v, want UNAVAILABLE", err)
		}
	}
	for err == nil {
		_, err = tail.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("a tail ended with %v, want UNAVAILABLE", err)
	}
	// A call that came before the connection was told is still answered.
	for name, conn := range map[string]*grpc.ClientConn{"the connection": f.conn, "a new connection": f.dial()} {
		var err error
		for err == nil {
			_, err = keybrokerv1.NewKeyBrokerClient(conn).ListKeys(t.Context(), &keybrokerv1.ListKeysRequest{})
		}
		if status.Code(err) != codes.Unavailable {
			t.Errorf("a new call on %s while stopping: %v, want UNAVAILABLE", name, err)
		}
	}
	select {
	case <-stopped:
		t.Fatal("Stop returned while a call was under way")
	default:
	}
	f.kms.resume()
	if err := <-underWay; err != nil {
		t.Errorf("the call that was under way: %v", err)
	}
	<-stopped
}

// TestStopCutsOff: a call that hangs ends with the drain's deadline, and is on
// the record.
func TestStopCutsOff(t *testing.T) {
	f := newFixture(t)
	hangs := f.kms.hang()
	underWay := make(chan error, 1)
	go func() { underWay <- f.tryGenerate("tikv") }()
	<-hangs
	f.stop()
	if err := <-underWay; status.Code(err) != codes.Unavailable {
		t.Errorf("the call that hung: %v, want UNAVAILABLE", err)
	}
	// Stop has waited for its handler.
	if r := f.last(); r.Event != "generate" || r.Reason != string(broker.Deadline) {
		t.Errorf("record %+v", r)
	}
}

// TestStopWaitsForHandlers: a handler that goes on after its call was cut off is
// waited for, since what it uses is closed after Stop.
func TestStopWaitsForHandlers(t *testing.T) {
	o := &observer{}
	f := newFixture(t, func(f *fixture) { f.options.Observer = o })
	ended, goOn := o.hold()
	call := make(chan error, 1)
	go func() { call <- f.tryGenerate("tikv") }()
	<-ended
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		f.stop()
	}()
	if err := <-call; status.Code(err) != codes.Unavailable {
		t.Errorf("the call that was cut off: %v", err)
	}
	// Once more, to give a Stop that does not wait the time to return.
	if err := f.tryGenerate("tikv"); status.Code(err) != codes.Unavailable {
		t.Errorf("a call after that: %v", err)
	}
	select {
	case <-stopped:
		t.Error("Stop returned before the handler had ended")
	default:
	}
	goOn()
	<-stopped
}

// TestServeAfterStop: a Server that was stopped serves no more, and closes what
// it is given.
func TestServeAfterStop(t *testing.T) {
	f := newFixture(t)
	f.stop()
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
	if err := f.tryGenerate("tikv"); status.Code(err) != codes.Unavailable {
		t.Errorf("a call after Stop: %v", err)
	}
}
