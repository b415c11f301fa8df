package gcptest

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// Server is a Cloud KMS and its token servers. It is safe for concurrent use.
type Server struct {
	kmspb.UnimplementedKeyManagementServiceServer

	dir       string
	authority authority
	tokens    *tokenServer
	address   string

	mu       sync.Mutex
	server   *grpc.Server // nil while it is down
	keys     map[string]*cryptoKey
	denied   map[string]bool // "PERMISSION KEY"
	faults   map[string]Fault
	requests map[string]int
	received []Received
}

// Received is what came with a call.
type Received struct {
	// Method is "Encrypt" or "Decrypt".
	Method string
	// Principal is the email that the call's token is for.
	Principal string
	// QuotaProject is the header x-goog-user-project.
	QuotaProject string
	// UserAgent is the header user-agent.
	UserAgent string
}

// New starts a Server without keys, which ends with the test.
func New(tb testing.TB) *Server {
	tb.Helper()
	s := &Server{
		dir: tb.TempDir(), authority: newAuthority(tb), tokens: newTokenServer(tb), address: "127.0.0.1:0",
		keys: map[string]*cryptoKey{}, denied: map[string]bool{}, faults: map[string]Fault{}, requests: map[string]int{},
	}
	s.Up(tb)
	tb.Cleanup(func() { s.Down(tb) })
	s.write(tb, "ca.pem", s.authority.pem)
	s.write(tb, "service-account.json", s.tokens.serviceAccount())
	s.write(tb, "subject-token", []byte(subjectToken))
	s.write(tb, "external-account.json", s.tokens.externalAccount(filepath.Join(s.dir, "subject-token")))
	s.write(tb, "impersonated.json", s.tokens.impersonated())
	return s
}

func (s *Server) write(tb testing.TB, name string, content []byte) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), content, 0o600); err != nil {
		tb.Fatal(err)
	}
}

// Endpoint is the "host:port" of the server. It stays the same when the server is
// down.
func (s *Server) Endpoint() string { return s.address }

// CAFile holds the PEM root of the server's certificate.
func (s *Server) CAFile() string { return filepath.Join(s.dir, "ca.pem") }

// Certificate is the server's, for whatever stands in its place.
func (s *Server) Certificate() tls.Certificate { return s.authority.server }

// CredentialsFile holds the key of ServiceAccount. Google's libraries sign tokens
// with it by themselves.
func (s *Server) CredentialsFile() string { return filepath.Join(s.dir, "service-account.json") }

// FederatedFile holds credentials of the type external_account, for
// FederatedAccount. They are exchanged for tokens at the token server.
func (s *Server) FederatedFile() string { return filepath.Join(s.dir, "external-account.json") }

// ImpersonatedFile holds credentials of the type impersonated_service_account, of
// ServiceAccount for ImpersonatedAccount.
func (s *Server) ImpersonatedFile() string { return filepath.Join(s.dir, "impersonated.json") }

// MetadataHost is what GCE_METADATA_HOST must be for tokens of MetadataAccount to
// come from the server.
func (s *Server) MetadataHost() string { return s.tokens.host() }

// Down makes Cloud KMS unreachable, and ends every connection. The token server
// stays.
func (s *Server) Down(testing.TB) {
	s.mu.Lock()
	server := s.server
	s.server = nil
	s.mu.Unlock()
	if server != nil {
		server.Stop()
	}
}

// Up takes Down back, at the same address. Clients may need a moment to connect.
func (s *Server) Up(tb testing.TB) {
	tb.Helper()
	listener, err := net.Listen("tcp", s.address)
	if err != nil {
		tb.Fatal(err)
	}
	s.address = listener.Addr().String()
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{s.authority.server}})),
		grpc.UnaryInterceptor(s.serve),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	)
	kmspb.RegisterKeyManagementServiceServer(server, s)
	s.mu.Lock()
	s.server = server
	s.mu.Unlock()
	go func() { _ = server.Serve(listener) }() // ends with Down
}

// Requests counts the calls of a method ("Encrypt"), or of all ("").
func (s *Server) Requests(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if method != "" {
		return s.requests[method]
	}
	n := 0
	for _, count := range s.requests {
		n += count
	}
	return n
}

// Received returns what came with every call whose token was accepted.
func (s *Server) Received() []Received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Received(nil), s.received...)
}
