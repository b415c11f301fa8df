package awskms_test

import (
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awskms"
	"github.com/keybroker/keybroker/backends/backendtest"
)

// The suite that every backend passes, with a key of one region and with a
// multi-region key.
func TestConformance(t *testing.T) {
	for name, key := range map[string]string{"one region": tikv, "multi-region": multi} {
		t.Run(name, func(t *testing.T) {
			_, id, _ := strings.Cut(key, "/")
			backendtest.Run(t, func(t *testing.T) backendtest.Fixture {
				isolate(t)
				f := newFakeKMS()
				l := newListener(t, f)
				k, err := awskms.New(awskms.Config{Region: region, Endpoint: "http://" + l.address})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { f.clean(t) })
				state := func(state string) func(*testing.T, backends.Wrapped) {
					return func(*testing.T, backends.Wrapped) { f.set(func() { f.keys[id].state = state }) }
				}
				return backendtest.Fixture{
					KMS: k, Provider: awskms.Provider, Key: key, Other: other,
					Missing: keyIn(region, gone), MissingReference: keyIn(region, gone),
					Rotate: func(*testing.T) {
						f.set(func() { f.keys[id].materials = append(f.keys[id].materials, newMaterial()) })
					},
					Disable: state("Disabled"), Enable: state("Enabled"),
					Down: l.down, Up: l.up,
					Requests: func() int { return len(f.requests("")) },
				}
			})
		})
	}
}

// listener serves a fake on an address that can be closed and opened again.
type listener struct {
	handler http.Handler
	address string
	server  atomic.Pointer[http.Server]
}

func newListener(t *testing.T, h http.Handler) *listener {
	l := &listener{handler: h, address: "127.0.0.1:0"}
	l.up(t)
	t.Cleanup(func() { l.down(t) })
	return l
}

func (l *listener) up(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("tcp", l.address)
	if err != nil {
		t.Fatal(err)
	}
	l.address = listener.Addr().String()
	s := &http.Server{Handler: l.handler}
	l.server.Store(s)
	go func() { _ = s.Serve(listener) }()
}

func (l *listener) down(t *testing.T) {
	t.Helper()
	if err := l.server.Load().Close(); err != nil {
		t.Error(err)
	}
}
