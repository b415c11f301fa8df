package config

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// MaxSocketPath is the longest path in a sockaddr_un, in bytes (unix(7)): 108 with
// the terminating zero.
const MaxSocketPath = 107

func (w *walker) listen(v value) Listen {
	before := len(w.problems)
	b := w.block(v, "listen")
	var l Listen
	if v, ok := b.fields["grpc"]; ok {
		l.GRPC = w.grpcSocket(v)
	}
	if v, ok := b.fields["grpc_tcp"]; ok {
		l.GRPCTCP = w.grpcTCP(v)
	}
	if v, ok := b.fields["aws_kms"]; ok {
		l.AWSKMS = w.awsEndpoint(v)
	}
	if v, ok := b.fields["admin"]; ok {
		l.Admin = w.admin(v)
	}
	if l.GRPC == nil && l.GRPCTCP == nil && len(w.problems) == before && !w.told[v.node] {
		found := "no way to reach the broker"
		if l.AWSKMS != nil {
			found = "no gRPC API, which keybroker's own commands need"
		}
		w.problem(v, found, "grpc or grpc_tcp")
	}
	taken := map[string]string{} // address → the listener it belongs to
	for _, name := range []string{"grpc_tcp", "aws_kms", "admin"} {
		at, ok := w.member(b.fields[name], "address")
		if !ok || w.told[at.node] || !at.isText() || strings.HasSuffix(at.node.Value, ":0") {
			continue
		}
		address := at.node.Value
		if other, ok := taken[address]; ok {
			w.problem(at, fmt.Sprintf("%s, which is %s's too", quote(address), other), "another port")
		}
		taken[address] = name
	}
	return l
}

func (w *walker) grpcSocket(v value) *GRPCSocket {
	b := w.block(v, "listen.grpc")
	s := &GRPCSocket{Mode: DefaultSocketMode}
	b.made("socket", &s.Path, 0o755)
	if len(s.Path) > MaxSocketPath {
		w.problem(b.fields["socket"], fmt.Sprintf("a path of %d bytes", len(s.Path)), fmt.Sprintf("at most %d bytes, as a unix socket's path", MaxSocketPath))
	}
	b.mode("mode", &s.Mode)
	s.UID = b.account("user", "uid", w.env.LookupUser)
	s.GID = b.account("group", "gid", w.env.LookupGroup)
	return s
}

func (w *walker) grpcTCP(v value) *GRPCTCP {
	b := w.block(v, "listen.grpc_tcp")
	var t GRPCTCP
	b.address("address", &t.Address)
	b.file("cert", &t.CertFile, trusted)
	b.file("key", &t.KeyFile, private)
	b.file("client_ca", &t.ClientCAFile, trusted)
	return &t
}

func (w *walker) admin(v value) *Admin {
	b := w.block(v, "listen.admin")
	var a Admin
	b.address("address", &a.Address)
	if host, _, err := net.SplitHostPort(a.Address); err == nil && !isLoopback(host) {
		w.warn(b.fields["address"], quote(a.Address)+", which other hosts may reach", "127.0.0.1, or a firewall: metrics name keys, clients and backends, and anyone may read them")
	}
	return &a
}

// address reads host:port. An empty host would mean every interface: who wants
// that writes 0.0.0.0 or [::].
func (b block) address(name string, dst *string) {
	v, ok := b.fields[name]
	if !ok {
		return
	}
	const want = "host:port, such as 127.0.0.1:7490 (0.0.0.0 or [::] for every interface)"
	s, ok := b.w.text(v, want)
	if !ok {
		return
	}
	host, port, err := net.SplitHostPort(s)
	n, isNumber := decimal(port)
	if err != nil || !isHost(host) || !isNumber || n > 65535 {
		b.w.problem(v, quote(s), want)
		return
	}
	*dst = s
}

// isHost tells whether s is an IP address or a DNS name.
func isHost(s string) bool {
	if strings.Contains(s, ":") {
		_, err := netip.ParseAddr(s)
		return err == nil
	}
	if last := s[strings.LastIndex(s, ".")+1:]; last != "" && strings.Trim(last, "0123456789") == "" {
		// No top-level domain is a number (RFC 1123 section 2.1): a mistyped IPv4
		// address would else be looked up.
		_, err := netip.ParseAddr(s)
		return err == nil
	}
	return isDNSName(s)
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// isDNSName tells whether s is a host name of letters, digits and hyphens
// (RFC 1123 section 2.1), with no dot at its end and no wildcard.
func isDNSName(s string) bool {
	return len(s) <= 253 && dnsForm.MatchString(s)
}
