package vault_test

import (
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest"
	"github.com/keybroker/keybroker/backends/vault"
)

// The suite that every backend passes, with each way to bind, and with an id that
// has to be asked for. It runs against a real Vault too, in the integration
// module.
func TestConformance(t *testing.T) {
	for _, test := range []struct {
		name, key, id string
		old           bool
		want          backends.Binding
	}{
		{"associated data", "tikv", "vault-test", false, backends.BindingAAD},
		{"derived", "derived", "vault-test", false, backends.BindingDerived},
		{"hash", "tikv", "vault-test", true, backends.BindingHash},
		{"cluster id", "tikv", "", false, backends.BindingAAD},
	} {
		t.Run(test.name, func(t *testing.T) {
			backendtest.Run(t, func(t *testing.T) backendtest.Fixture {
				v := newFakeVault()
				if test.old {
					v.version = "1.12.3"
				}
				l := newListener(t, v)
				k, err := vault.New(vault.Config{Address: "http://" + l.address, ID: test.id, Auth: tokenAuth(t, rootToken)})
				if err != nil {
					t.Fatal(err)
				}
				return backendtest.Fixture{
					KMS: k, Provider: vault.Provider, Key: test.key, Other: "other", Missing: "missing",
					Rotate: func(*testing.T) {
						v.set(func() { v.keys[test.key].versions = append(v.keys[test.key].versions, randomBytes(32)) })
					},
					Disable: func(t *testing.T, w backends.Wrapped) {
						n, err := strconv.Atoi(w.Version)
						if err != nil {
							t.Fatal(err)
						}
						if w.Binding != test.want {
							t.Errorf("binding %v, want %v", w.Binding, test.want)
						}
						v.set(func() { v.keys[test.key].minDecryption = n + 1 })
					},
					Enable: func(*testing.T, backends.Wrapped) { v.set(func() { v.keys[test.key].minDecryption = 1 }) },
					Down:   l.down, Up: l.up,
					Requests: func() int { return v.count("") },
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
