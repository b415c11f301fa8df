package peer_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/peer"
)

// refusal is what a Listener reports.
type refusal struct {
	id  peer.Identity
	err error
}

// reporting returns Options that send what is refused.
func reporting(maxPerUID int) (peer.Options, chan refusal) {
	refused := make(chan refusal, 1000)
	return peer.Options{MaxPerUID: maxPerUID, Refused: func(id peer.Identity, err error) { refused <- refusal{id, err} }}, refused
}

// receive returns the next of c.
func receive[T any](t *testing.T, c chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(time.Minute):
		t.Fatalf("no %T in a minute", *new(T))
		panic("unreachable")
	}
}

// pump accepts what comes until l is closed.
func pump(t *testing.T, l *peer.Listener) chan *peer.Conn {
	t.Helper()
	accepted := make(chan *peer.Conn, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("Accept: %v", err)
				}
				return
			}
			accepted <- conn.(*peer.Conn)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		close(accepted)
		for conn := range accepted {
			conn.Close()
		}
	})
	return accepted
}

func TestCallerThatHasExitedIsRefused(t *testing.T) {
	needPidfd(t)
	opts, refused := reporting(0)
	l := listen(t, opts)
	p := play(t, nil, "connect", l.Addr().String(), "1")
	p.expect("connected")
	p.end()
	dial(t, l)

	conn := accept(t, l)
	same(t, conn.Peer().Identity, self(t))
	if len(refused) != 1 {
		t.Fatalf("%d refusals were reported", len(refused))
	}
	r := receive(t, refused)
	want := self(t)
	want.PID = p.pid()
	same(t, r.id, want)
	if !errors.Is(r.err, peer.ErrExited) {
		t.Errorf("refused with %v", r.err)
	}
}

func TestNoMoreThanMaxPerUID(t *testing.T) {
	opts, refused := reporting(2)
	l := listen(t, opts)
	accepted := pump(t, l)
	first, second := dial(t, l), dial(t, l)
	one, two := receive(t, accepted), receive(t, accepted)

	tooMany := func() {
		t.Helper()
		third := dial(t, l)
		r := receive(t, refused)
		if !errors.Is(r.err, peer.ErrTooMany) {
			t.Errorf("refused with %v", r.err)
		}
		same(t, r.id, self(t))
		if n, err := third.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("the third is still open: %d, %v", n, err)
		}
	}
	tooMany()
	tooMany()

	// A caller who leaves is no longer counted once his connection is closed,
	// and is not counted twice.
	first.Close()
	tooMany()
	one.Close()
	one.Close()
	dial(t, l)
	three := receive(t, accepted)
	tooMany()

	second.Close()
	two.Close()
	three.Close()
	dial(t, l)
	dial(t, l)
	receive(t, accepted)
	receive(t, accepted)
	tooMany()
}

func TestMaxPerUIDIsForEachUser(t *testing.T) {
	needRoot(t, "only root can start processes of other users")
	opts, refused := reporting(2)
	l := listen(t, opts)
	accepted := pump(t, l)
	dial(t, l)
	dial(t, l)
	receive(t, accepted)
	receive(t, accepted)
	p := play(t, as(23456, 23457), "connect", l.Addr().String(), "3")
	p.expect("connected")
	for range 2 {
		if got := receive(t, accepted).Peer().Identity.UID; got != 23456 {
			t.Errorf("uid %d", got)
		}
	}
	if r := receive(t, refused); r.id.UID != 23456 || r.id.PID != p.pid() || !errors.Is(r.err, peer.ErrTooMany) {
		t.Errorf("refused: %+v", r)
	}
	p.end()
}

func TestNoLimit(t *testing.T) {
	opts, refused := reporting(0)
	l := listen(t, opts)
	for range 50 {
		dial(t, l)
	}
	for range 50 {
		accept(t, l)
	}
	if len(refused) != 0 {
		t.Errorf("refused: %+v", <-refused)
	}
}

// Connections come and go in many goroutines, and in the end none is counted.
func TestCountingAtOnce(t *testing.T) {
	const most = 4
	opts, refused := reporting(most)
	l := listen(t, opts)
	accepted := pump(t, l)
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			dial, err := net.Dial("unix", l.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			defer dial.Close()
			select {
			case conn := <-accepted:
				var closing sync.WaitGroup
				for range 2 {
					closing.Go(func() { conn.Close() })
				}
				closing.Wait()
			case r := <-refused:
				if !errors.Is(r.err, peer.ErrTooMany) {
					t.Errorf("refused with %v", r.err)
				}
			}
		})
	}
	all.Wait()
	for range most {
		dial(t, l)
		receive(t, accepted)
	}
	dial(t, l)
	receive(t, refused)
}

// Without Refused and without a Logger nothing is told, and nothing breaks.
func TestRefusalsNeedNobody(t *testing.T) {
	l := listen(t, peer.Options{MaxPerUID: 1})
	dial(t, l)
	first := accept(t, l)
	second := dial(t, l)
	pump(t, l)
	if _, err := second.Read(make([]byte, 1)); err == nil {
		t.Error("the second is open")
	}
	if _, err := io.WriteString(first, "x"); err != nil {
		t.Errorf("the first: %v", err)
	}
}

// What is refused is logged, but not so often that it fills the disk.
func TestRefusalsAreLogged(t *testing.T) {
	var text bytes.Buffer
	opts, refused := reporting(1)
	opts.Logger = slog.New(slog.NewTextHandler(&text, nil))
	l := listen(t, opts)
	accepted := pump(t, l)
	dial(t, l)
	receive(t, accepted)
	const n = 100
	for range n {
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		receive(t, refused)
		conn.Close()
	}
	l.Close()
	first, rest, _ := strings.Cut(text.String(), "\n")
	for _, want := range []string{peer.ErrTooMany.Error(), self(t).String(), "left_out=0"} {
		if !strings.Contains(first, want) {
			t.Errorf("the line does not say %q: %s", want, first)
		}
	}
	if strings.Count(rest, "\n") >= n-1 {
		t.Error("every refusal is a line")
	}
}

// Without files there is no answer, but the server lives on.
func TestAcceptWithoutFiles(t *testing.T) {
	needPidfd(t)
	const waits = "connections cannot be accepted now and wait; if it lasts, give the process more open files or memory"
	p := play(t, nil, "starved", publicDir(t))
	p.expect("Accept: " + waits)
	p.expect("Serve: " + waits)
	p.expect("answered")
	p.expect("refused")
	p.end()
}

func TestAcceptAfterClose(t *testing.T) {
	l := listen(t, peer.Options{})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	var temporary net.Error
	if conn != nil || !errors.Is(err, net.ErrClosed) || errors.As(err, &temporary) && temporary.Temporary() { //nolint:staticcheck // servers ask for it
		t.Errorf("Accept: %v, %v", conn, err)
	}
}
