package config_test

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/internal/config"
)

const (
	awsBase = `
listen:
  grpc: {socket: /run/kb.sock}
  aws_kms: {address: "ADDRESS"}
clients:
  tikv: {match: {aws: {access_key_id: kb1, secret_key_file: /s, USER}}}
`
	tlsBase = `
listen:
  grpc: {socket: /run/kb.sock}
  aws_kms: {address: "ADDRESS", cert: /c, key: /k}
clients:
  tikv: {match: {aws: {access_key_id: kb1, secret_key_file: /s USER}}}
`
)

// Who an access key lets in depends on where it can be used.
func TestAccessKeyUsers(t *testing.T) {
	for name, test := range map[string]struct {
		text, address, user string
		match               string
		window              time.Duration
		warnings            []string
		wrong               string
	}{
		"a user on loopback":        {text: awsBase, address: "127.0.0.1:7480", user: "user: tidb", match: "access key kb1 of uid 1002", window: time.Minute},
		"a user on localhost":       {text: awsBase, address: "localhost:7480", user: "uid: 7", match: "access key kb1 of uid 7", window: time.Minute},
		"any user on loopback":      {text: awsBase, address: "[::1]:7480", user: "any_local_user: true", match: "access key kb1 of any user", window: time.Minute},
		"no user on loopback":       {text: awsBase, address: "127.0.0.1:7480", user: "any_local_user: false", wrong: "an access key without a user"},
		"no user, TLS":              {text: tlsBase, address: "10.0.0.1:7480", match: "access key kb1 of any user", window: 5 * time.Minute},
		"no user, TLS on loopback":  {text: tlsBase, address: "127.0.0.1:7480", match: "access key kb1 of any user", window: time.Minute},
		"not any user, TLS":         {text: tlsBase, address: "10.0.0.1:7480", user: ", any_local_user: false", wrong: "an access key without a user"},
		"a user, TLS everywhere":    {text: tlsBase, address: "0.0.0.0:7480", user: ", user: tidb", match: "access key kb1 of uid 1002", window: 5 * time.Minute},
		"a user, TLS everywhere, 6": {text: tlsBase, address: "[::]:7480", user: ", user: tidb", match: "access key kb1 of uid 1002", window: 5 * time.Minute},
		"a user, TLS far away": {
			text: tlsBase, address: "tikv-1.example.org:7480", user: ", user: tidb", match: "access key kb1 of uid 1002", window: 5 * time.Minute,
			warnings: []string{"c.yaml:1:1: clients.tikv.match: found a local user, who is only known on a loopback address; want listen.aws_kms on one, without which this client is refused"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			fragment := strings.NewReplacer("ADDRESS", test.address, "USER", test.user).Replace(test.text)
			c, err := config.Parse("c.yaml", []byte(compose(t, base, fragment)), environment())
			if test.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), test.wrong) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%v, want %s", err, test.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := c.Clients[0].Match.String(); got != test.match || c.Listen.AWSKMS.ClockWindow != test.window {
				t.Errorf("%s and %v, want %s and %v", got, c.Listen.AWSKMS.ClockWindow, test.match, test.window)
			}
			if !sameWarnings(c.Warnings, test.warnings) {
				t.Errorf("%v", c.Warnings)
			}
			checkConfig(t, c)
		})
	}
}

// sameWarnings compares all but the places.
func sameWarnings(got config.Problems, want []string) bool {
	var texts []string
	for _, p := range got {
		p.Line, p.Column = 1, 1
		texts = append(texts, p.String())
	}
	return slices.Equal(texts, want)
}

// What is valid but may not be meant.
func TestAWSEndpointWarnings(t *testing.T) {
	everyone := func(port uint16) bool { return port >= 1024 }
	const user = "user: tidb"
	const open = ", where any local user may listen while the broker is down, and hand out keys that he knows; want systemd to hold the port (keybroker-aws.socket), or a port that only root may bind"
	for name, test := range map[string]struct {
		fragments []string
		anyone    func(uint16) bool
		want      []string
	}{
		"a port of everyone's":             {[]string{strings.NewReplacer("ADDRESS", "127.0.0.1:7480", "USER", user).Replace(awsBase)}, everyone, []string{`c.yaml:1:1: listen.aws_kms.address: found "127.0.0.1:7480"` + open}},
		"the first port of everyone's":     {[]string{strings.NewReplacer("ADDRESS", "127.0.0.1:1024", "USER", user).Replace(awsBase)}, everyone, []string{`c.yaml:1:1: listen.aws_kms.address: found "127.0.0.1:1024"` + open}},
		"a port of root's":                 {[]string{strings.NewReplacer("ADDRESS", "127.0.0.1:1023", "USER", user).Replace(awsBase)}, everyone, nil},
		"a free port":                      {[]string{strings.NewReplacer("ADDRESS", "127.0.0.1:0", "USER", user).Replace(awsBase)}, everyone, nil},
		"a port of which nothing is known": {[]string{strings.NewReplacer("ADDRESS", "127.0.0.1:7480", "USER", user).Replace(awsBase)}, nil, nil},
		"no access key": {[]string{`listen: {grpc: {socket: /s}, aws_kms: {address: "127.0.0.1:7480"}}`}, nil,
			[]string{"c.yaml:1:1: listen.aws_kms: found no client with an access key; want a client with match: {aws: …}: as it is, every request here is refused"}},
		"no endpoint": {[]string{"clients: {tikv: {match: {aws: {access_key_id: kb1, secret_key_file: /s, user: tidb}}}}"}, nil,
			[]string{"c.yaml:1:1: clients.tikv.match: found an access key; want listen.aws_kms, without which this client cannot connect"}},
	} {
		t.Run(name, func(t *testing.T) {
			env := environment()
			env.AnyoneMayBind = test.anyone
			c, err := config.Parse("c.yaml", []byte(compose(t, base, test.fragments...)), env)
			if err != nil {
				t.Fatal(err)
			}
			if !sameWarnings(c.Warnings, test.want) {
				t.Errorf("%v", c.Warnings)
			}
		})
	}
}

// On a host, everyone may bind what the kernel says; where that is hidden, what it
// says by default.
func TestSystemKnowsPorts(t *testing.T) {
	first := uint64(1024)
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); err == nil {
		if first, err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32); err != nil {
			t.Fatal(err)
		}
	}
	anyone := config.System("/").AnyoneMayBind
	for port := range uint64(65536) {
		if got := anyone(uint16(port)); got != (port >= first) {
			t.Fatalf("port %d: %v, and the first is %d", port, got, first)
		}
	}
}
