package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/keybroker/keybroker/broker/grpcapi"
	"github.com/keybroker/keybroker/internal/secret"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// client is a connection to the broker.
type client struct {
	keybrokerv1.KeyBrokerClient
	keybrokerv1.AdminClient
	conn    *grpc.ClientConn
	socket  string
	timeout time.Duration

	mu   sync.Mutex
	dial error // why the last attempt to connect failed
}

// withClient calls f with a client of the broker, bounded by --timeout.
func (o *options) withClient(ctx context.Context, f func(context.Context, *client) error) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	return o.withOpenClient(ctx, f)
}

// withOpenClient is withClient without the bound, for what goes on until it is
// interrupted.
func (o *options) withOpenClient(ctx context.Context, f func(context.Context, *client) error) error {
	// A data key may come by. Where that cannot be protected, so it is.
	_ = secret.Harden()
	c := &client{socket: o.socket, timeout: o.timeout}
	conn, err := grpc.NewClient("passthrough:///"+o.socket,
		// The kernel tells each side who the other is; the socket's directory
		// belongs to root or the broker.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(c.connect),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(grpcapi.MaxMessage), grpc.MaxCallSendMsgSize(grpcapi.MaxMessage)),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
	)
	if err != nil {
		return err
	}
	c.conn, c.KeyBrokerClient, c.AdminClient = conn, keybrokerv1.NewKeyBrokerClient(conn), keybrokerv1.NewAdminClient(conn)
	err = f(ctx, c)
	closed := conn.Close()
	if err != nil {
		// Alone, or message would not find the broker's words in it.
		return c.explain(err)
	}
	return closed
}

func (c *client) connect(ctx context.Context, _ string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.socket)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dial = err
	return conn, err
}

// explain says what to do if the broker could not be reached or did not answer.
func (c *client) explain(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	late := status.Code(err) == codes.DeadlineExceeded || errors.Is(err, context.DeadlineExceeded)
	if err == nil || status.Code(err) != codes.Unavailable && !late || reasonOf(err) != "" {
		return err
	}
	at, missing := os.Stat(c.socket)
	switch {
	case errors.Is(c.dial, fs.ErrPermission):
		return deniedError(fmt.Errorf("this user may not connect to %s; its owner, group and mode (ls -l) say who may", c.socket))
	case missing == nil && at.Mode()&fs.ModeSocket == 0:
		return usageError(fmt.Errorf("%s is not a socket; name the broker's by --socket or $%s", c.socket, socketEnv))
	case errors.Is(c.dial, fs.ErrNotExist):
		return unavailableError(fmt.Errorf("there is no broker at %s; start it (keybroker serve, keybroker dev), or name its socket by --socket or $%s", c.socket, socketEnv))
	case errors.Is(c.dial, syscall.ECONNREFUSED):
		return unavailableError(fmt.Errorf("the broker at %s does not run; its socket was left behind; start it again (systemctl start keybroker, keybroker serve, keybroker dev)", c.socket))
	case c.dial != nil:
		return unavailableError(fmt.Errorf("cannot connect to %s: %w", c.socket, c.dial))
	case late:
		return unavailableError(fmt.Errorf("the broker at %s does not answer within %s; it may hang or be stopped (systemctl status keybroker), or need longer (--timeout)", c.socket, c.timeout))
	default:
		return err
	}
}
