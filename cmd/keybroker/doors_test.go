package main

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/peer"
	"github.com/keybroker/keybroker/internal/config"
)

// TestNobodyTakesAllFiles: anybody on the host may ask for metrics and health, and
// the files that his connections take are missing to those who ask for keys.
func TestNobodyTakesAllFiles(t *testing.T) {
	refused := make(chan error, maxPerWatcher+1)
	listen := config.Listen{Admin: &config.Admin{Address: "127.0.0.1:0"}}
	d, err := openDoors(listen, slog.New(slog.DiscardHandler), func(_ peer.Identity, err error) { refused <- err })
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, maxPerWatcher+1)
	go func() {
		defer close(accepted)
		for {
			conn, err := d.admin.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	defer func() {
		if err := d.admin.Close(); err != nil {
			t.Error(err)
		}
		for conn := range accepted {
			_ = conn.Close()
		}
	}()
	var last net.Conn
	for range maxPerWatcher + 1 {
		conn, err := net.Dial("tcp", d.admin.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		last = conn
	}
	if err := last.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := last.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("connection %d of one user is not closed: %v", maxPerWatcher+1, err)
	}
	select {
	case err := <-refused:
		if !errors.Is(err, peer.ErrTooMany) {
			t.Errorf("the record has %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the refusal is not on the record")
	}
}
