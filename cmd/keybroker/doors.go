package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"syscall"

	"github.com/keybroker/keybroker/broker/peer"
	"github.com/keybroker/keybroker/internal/config"
)

// doors are the open listeners.
type doors struct {
	grpc   []net.Listener
	awsKMS net.Listener
	admin  net.Listener
}

// maxPerUID is how many connections one local user may have open: enough for any
// client, too few to take every file descriptor.
const maxPerUID = 1024

// maxPerWatcher is the same for metrics and health, which anybody on the host may
// ask for. Callers of other hosts count as one user there.
const maxPerWatcher = 64

// openDoors opens every listener of the configuration, or takes it from systemd.
// On an error it leaves none open.
func openDoors(listen config.Listen, log *slog.Logger, refused func(peer.Identity, error)) (d doors, err error) {
	defer func() {
		if err == nil {
			return
		}
		for _, l := range append(d.grpc, d.awsKMS) {
			if l != nil {
				err = errors.Join(err, l.Close())
			}
		}
	}()
	accept := peer.Options{Logger: log, Refused: refused, MaxPerUID: maxPerUID}
	activated, err := peer.Activated(accept, []string{"grpc"}, []string{awsSocket})
	if err != nil {
		return d, err
	}
	switch s, held := listen.GRPC, activated.Unix["grpc"]; {
	case held != nil && s == nil:
		return d, errors.Join(errors.New("systemd passed the socket grpc, but listen.grpc is not configured"), held.Close())
	case held != nil:
		d.grpc = append(d.grpc, held)
	case s != nil:
		l, err := peer.ListenUnix(peer.Config{Path: s.Path, Mode: s.Mode, UID: id(s.UID), GID: id(s.GID), Options: accept})
		if err != nil {
			return d, err
		}
		d.grpc = append(d.grpc, l)
	}
	if t := listen.GRPCTCP; t != nil {
		l, err := net.Listen("tcp", t.Address)
		if err != nil {
			return d, fmt.Errorf("listen.grpc_tcp: %w", addressInUse(t.Address, err))
		}
		d.grpc = append(d.grpc, l)
	}
	if d.awsKMS, err = openAWS(listen.AWSKMS, activated.TCP[awsSocket], accept); err != nil {
		return d, err
	}
	if a := listen.Admin; a != nil {
		l, err := net.Listen("tcp", a.Address)
		if err != nil {
			return d, fmt.Errorf("listen.admin: %w", addressInUse(a.Address, err))
		}
		d.admin = peer.LocalTCP(l, peer.Options{Logger: log, Refused: refused, MaxPerUID: maxPerWatcher})
	}
	return d, nil
}

// awsSocket is the name of the socket that systemd holds for listen.aws_kms.
const awsSocket = "aws_kms"

// openAWS opens the listener of the AWS-KMS-compatible endpoint, or takes the one
// that systemd holds.
func openAWS(a *config.AWSEndpoint, held *peer.TCPListener, accept peer.Options) (net.Listener, error) {
	switch {
	case a == nil && held == nil:
		return nil, nil
	case a == nil:
		return nil, errors.Join(errors.New("systemd passed the socket aws_kms, but listen.aws_kms is not configured"), held.Close())
	case held == nil:
		l, err := net.Listen("tcp", a.Address)
		if err != nil {
			return nil, fmt.Errorf("listen.aws_kms: %w", addressInUse(a.Address, err))
		}
		return peer.LocalTCP(l, accept), nil
	}
	// The unit decides the address, and it may have been changed there alone.
	if at, ok := held.Addr().(*net.TCPAddr); a.CertFile == "" && (!ok || !at.IP.IsLoopback()) {
		return nil, errors.Join(fmt.Errorf("systemd passed the socket aws_kms at %v, which others than this host reach; without listen.aws_kms.cert it must be a loopback address", held.Addr()), held.Close())
	}
	return held, nil
}

// addressInUse is err; if address has a listener already, it says how to go on.
func addressInUse(address string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s is in use (%w): stop who listens there (ss -ltnp), or take another address", address, syscall.EADDRINUSE)
	}
	return err
}

// id is a user or group id for chown(2), in which -1 leaves it as it is.
func id(of *uint32) int {
	if of == nil {
		return -1
	}
	return int(*of)
}
