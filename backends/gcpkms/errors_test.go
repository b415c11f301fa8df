package gcpkms_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/gcpkms"
	"github.com/keybroker/keybroker/backends/gcpkms/gcptest"
)

// The error table: what Cloud KMS says to a Decrypt, and what it means.
func TestAnswers(t *testing.T) {
	b := newBench(t, nil)
	w, plaintext := b.wrap()
	for _, test := range []struct {
		name   string
		code   codes.Code
		text   string
		reason string
		want   backends.Class
		words  []string
	}{
		{"no key", codes.NotFound, "CryptoKey " + tikv + " not found.", "", backends.NotFound, []string{"NOT_FOUND", "location"}},
		{"no permission", codes.PermissionDenied, "Permission 'cloudkms.cryptoKeyVersions.useToDecrypt' denied on resource '" + tikv + "' (or it may not exist).",
			"IAM_PERMISSION_DENIED", backends.Denied, []string{"IAM_PERMISSION_DENIED", "roles/cloudkms.cryptoKeyEncrypterDecrypter on " + tikv, "(or it may not exist)"}},
		{"no permission, without a reason", codes.PermissionDenied, "denied", "", backends.Denied, []string{"roles/cloudkms.cryptoKeyEncrypterDecrypter"}},
		{"API off", codes.PermissionDenied, "Cloud KMS API has not been used in project 1 before or it is disabled.", "SERVICE_DISABLED",
			backends.Denied, []string{"SERVICE_DISABLED", "gcloud services enable cloudkms.googleapis.com --project gcptest"}},
		{"billing off", codes.PermissionDenied, "This API method requires billing to be enabled.", "BILLING_DISABLED", backends.Denied, []string{"BILLING_DISABLED", "turn billing on"}},
		{"quota project denied", codes.PermissionDenied, "Caller does not have required permission to use project gcptest.", "USER_PROJECT_DENIED",
			backends.Denied, []string{"roles/serviceusage.serviceUsageConsumer on gcptest", "quota_project"}},
		{"quota project gone", codes.PermissionDenied, "Project 'gcptest' not found or deleted.", "CONSUMER_INVALID", backends.Denied, []string{"gone or suspended"}},
		{"perimeter", codes.PermissionDenied, "Request is prohibited by organization's policy. vpcServiceControlsUniqueIdentifier: x", "SECURITY_POLICY_VIOLATED",
			backends.Denied, []string{"VPC Service Controls", "vpcServiceControlsUniqueIdentifier: x"}},
		{"VM's scopes", codes.PermissionDenied, "Request had insufficient authentication scopes.", "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
			backends.Unauthenticated, []string{"cloud-platform"}},
		{"disabled", codes.FailedPrecondition, tikv + "/cryptoKeyVersions/1 is not enabled, current state is: DISABLED.", "", backends.Disabled, []string{"cryptoKeyVersions/1", "DISABLED"}},
		{"destroyed", codes.FailedPrecondition, tikv + "/cryptoKeyVersions/1 is not enabled, current state is: DESTROYED.", "", backends.Disabled, []string{"DESTROYED"}},
		{"no primary", codes.FailedPrecondition, "no primary version", "", backends.Internal, nil},
		{"another key's", codes.InvalidArgument, "Decryption failed: verify that 'name' refers to the correct CryptoKey.", "", backends.InvalidCiphertext, nil},
		{"damaged", codes.InvalidArgument, "Decryption failed: the ciphertext is invalid.", "", backends.InvalidCiphertext, nil},
		{"purpose", codes.InvalidArgument, "The purpose is ASYMMETRIC_DECRYPT.", "", backends.InvalidArgument, nil},
		{"range", codes.OutOfRange, "out of range", "", backends.InvalidArgument, nil},
		{"not there", codes.Unimplemented, "unknown method", "", backends.InvalidArgument, nil},
		{"quota", codes.ResourceExhausted, "Quota exceeded for quota metric 'Cryptographic requests'.", "RATE_LIMIT_EXCEEDED", backends.Throttled, []string{"RATE_LIMIT_EXCEEDED", "quota"}},
		{"unavailable", codes.Unavailable, "The service is currently unavailable.", "", backends.Unavailable, nil},
		{"aborted", codes.Aborted, "aborted", "", backends.Unavailable, nil},
		{"Google's own deadline", codes.DeadlineExceeded, "deadline", "", backends.Unavailable, nil},
		{"cancelled over there", codes.Canceled, "cancelled", "", backends.Unavailable, nil},
		{"token", codes.Unauthenticated, "Request had invalid authentication credentials.", "ACCESS_TOKEN_EXPIRED", backends.Unauthenticated, []string{"ACCESS_TOKEN_EXPIRED"}},
		{"internal", codes.Internal, "internal error", "", backends.Internal, nil},
		{"unknown", codes.Unknown, "unknown", "", backends.Internal, nil},
		{"loss", codes.DataLoss, "lost", "", backends.Internal, nil},
		{"exists already", codes.AlreadyExists, "exists", "", backends.Internal, nil},
		{"a code that is none", codes.Code(99), "what", "", backends.Internal, nil},
		{"a long text", codes.Internal, strings.Repeat("x\n\x1b[31m", 1000), "", backends.Internal, nil},
		{"a long reason", codes.PermissionDenied, "no", strings.Repeat("REASON", 1000), backends.Denied, nil},
	} {
		b.cloud.Fail("Decrypt", gcptest.Refuse(test.code, test.text, test.reason))
		before := b.cloud.Requests("Decrypt")
		got, err := b.unwrap(t.Context(), w)
		b.fails(test.name, err, test.want, test.words...)
		if got != nil {
			t.Errorf("%s: %d bytes", test.name, len(got))
		}
		if n := b.cloud.Requests("Decrypt") - before; n != 1 {
			t.Errorf("%s: it was asked %d times", test.name, n)
		}
		b.cloud.Fail("Decrypt", nil)
		b.opens(w, plaintext)
	}
}

func TestRetryAfter(t *testing.T) {
	b := newBench(t, nil)
	w, _ := b.wrap()
	for asked, want := range map[time.Duration]time.Duration{7 * time.Second: 7 * time.Second, -time.Second: 0, 48 * time.Hour: time.Hour} {
		st, err := status.New(codes.ResourceExhausted, "Quota exceeded").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(asked)})
		if err != nil {
			t.Fatal(err)
		}
		b.cloud.Fail("Decrypt", func(context.Context, proto.Message, func() (proto.Message, error)) (proto.Message, error) {
			return nil, st.Err()
		})
		_, err = b.unwrap(t.Context(), w)
		var e *backends.Error
		if !errors.As(err, &e) || e.Class != backends.Throttled || e.RetryAfter != want {
			t.Errorf("%s: %#v", asked, err)
		}
	}
}

// What stands before Google is never taken for it. gRPC makes a definite code of
// each of these.
func TestAnswersThatAreNotGoogles(t *testing.T) {
	for _, code := range []int{200, 400, 401, 403, 404, 429, 500, 502, 503} {
		b := newBench(t, nil)
		listener, err := net.Listen("tcp", b.cloud.Endpoint()[:strings.LastIndex(b.cloud.Endpoint(), ":")]+":0")
		if err != nil {
			t.Fatal(err)
		}
		proxy := &http.Server{
			Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/html")
				w.WriteHeader(code)
				_, _ = w.Write([]byte("<html>blocked</html>"))
			}),
			TLSConfig: &tls.Config{Certificates: []tls.Certificate{b.cloud.Certificate()}, NextProtos: []string{"h2"}},
		}
		t.Cleanup(func() { _ = proxy.Close() })
		go func() { _ = proxy.ServeTLS(listener, "", "") }()
		b.cfg.Endpoint = listener.Addr().String()
		b.open()
		_, _, err = b.wrapErr()
		b.fails(http.StatusText(code), err, backends.Unavailable)
	}
}

// A certificate of somebody else's.
func TestCertificate(t *testing.T) {
	stranger := gcptest.New(t)
	b := newBench(t, func(_ *gcptest.Server, cfg *gcpkms.Config) { cfg.CAFile = stranger.CAFile() })
	_, _, err := b.wrapErr()
	b.fails("another root", err, backends.Unavailable, "x509", "ca_file")
	b = newBench(t, func(_ *gcptest.Server, cfg *gcpkms.Config) { cfg.CAFile = "" })
	_, _, err = b.wrapErr()
	b.fails("the system's roots", err, backends.Unavailable, "x509", "ca_file")
	if n := b.cloud.Requests(""); n > 0 {
		t.Errorf("%d calls were made", n)
	}
}

// Both forms of a deadline, and a caller that goes away.
func TestGivenUp(t *testing.T) {
	b := newBench(t, nil)
	w, plaintext := b.wrap()
	began := make(chan struct{}, 8)
	stall := gcptest.Stall()
	b.cloud.Fail("", func(ctx context.Context, m proto.Message, answer func() (proto.Message, error)) (proto.Message, error) {
		began <- struct{}{}
		return stall(ctx, m, answer)
	})
	for name, call := range map[string]func(context.Context) error{
		"Wrap": func(ctx context.Context) error {
			_, err := b.kms.Wrap(ctx, backends.WrapRequest{Key: tikv, Plaintext: plaintext, AssociatedData: someAD})
			return err
		},
		"Unwrap": func(ctx context.Context) error { _, err := b.unwrap(ctx, w); return err },
		"Check":  func(ctx context.Context) error { return b.kms.Check(ctx, tikv) },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-began; cancel() }()
		err := call(ctx)
		b.fails(name+" cancelled", err, backends.Unavailable)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
		err = call(ctx)
		cancel()
		<-began
		b.fails(name+" past its deadline", err, backends.Unavailable)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.cloud.Fail("", nil)
	b.opens(w, plaintext)
}

// The backend's own timeout is not the caller's.
func TestTimeout(t *testing.T) {
	b := newBench(t, nil)
	w, _ := b.wrap()
	b.cfg.Timeout = 50 * time.Millisecond
	b.open()
	b.cloud.Fail("Decrypt", gcptest.Stall())
	_, err := b.unwrap(t.Context(), w)
	b.fails("Unwrap", err, backends.Unavailable, "50ms")
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		t.Errorf("it looks as if the caller had given up: %v", err)
	}
}

// A server that takes connections and says nothing.
func TestSilentServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	b := newBench(t, func(_ *gcptest.Server, cfg *gcpkms.Config) {
		cfg.Endpoint, cfg.Timeout = listener.Addr().String(), 100*time.Millisecond
	})
	_, _, err = b.wrapErr()
	b.fails("Wrap", err, backends.Unavailable)
}

// Close ends what waits for Cloud KMS, and for a token.
func TestCloseWhileItHangs(t *testing.T) {
	for name, file := range map[string]func(*gcptest.Server) string{"Cloud KMS": (*gcptest.Server).CredentialsFile, "a token": (*gcptest.Server).FederatedFile} {
		b := newBench(t, func(s *gcptest.Server, cfg *gcpkms.Config) {
			cfg.CredentialsFile, cfg.Timeout = file(s), time.Minute
		})
		began := make(chan struct{}, 1)
		b.cloud.FailTokens(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // until then the server does not see that the client has gone
			began <- struct{}{}
			<-r.Context().Done()
		})
		b.cloud.Fail("", func(ctx context.Context, _ proto.Message, _ func() (proto.Message, error)) (proto.Message, error) {
			began <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		})
		failed := make(chan error, 1)
		go func() { _, _, err := b.wrapErr(); failed <- err }()
		<-began
		if err := b.kms.Close(); err != nil {
			t.Error(err)
		}
		err := <-failed
		b.fails(name, err, backends.Unavailable, "closed")
		if errors.Is(err, context.Canceled) {
			t.Errorf("%s: it looks as if the caller had given up: %v", name, err)
		}
	}
}
