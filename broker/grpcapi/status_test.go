package grpcapi_test

import (
	"bytes"
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/policy"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// answers says what a client gets for each reason, and how a client of a real
// broker comes to get it. docs/errors.md shows the same.
var answers = []struct {
	reason  broker.Reason
	code    codes.Code
	retry   time.Duration // 0: no RetryInfo
	provoke func(*testing.T) (*fixture, error)
}{
	{broker.KeyNotFound, codes.NotFound, 0, func(t *testing.T) (*fixture, error) {
		f := newFixture(t)
		return f, f.tryGenerate("nosuch")
	}},
	{broker.AccessDenied, codes.PermissionDenied, 0, func(t *testing.T) (*fixture, error) {
		f := newFixture(t, withPolicy(allow("me", policy.Match{UID: uid(myUID())}, "tikv", policy.Unwrap)))
		return f, f.tryGenerate("tikv")
	}},
	{broker.InvalidEnvelope, codes.InvalidArgument, 0, func(t *testing.T) (*fixture, error) {
		f := newFixture(t)
		return f, f.tryUnwrap([]byte("not a wrapped key"))
	}},
	{broker.InvalidArgument, codes.InvalidArgument, 0, func(t *testing.T) (*fixture, error) {
		f := newFixture(t)
		_, err := f.keys.GenerateDataKey(t.Context(), &keybrokerv1.GenerateDataKeyRequest{KeyName: "tikv", KeyLength: 15})
		return f, err
	}},
	{broker.KEKDisabled, codes.FailedPrecondition, 0, unwrapFrom(backends.Disabled)},
	{broker.KEKDenied, codes.FailedPrecondition, 0, unwrapFrom(backends.Denied)},
	{broker.NoBackend, codes.FailedPrecondition, 0, func(t *testing.T) (*fixture, error) {
		f := newFixture(t)
		g := f.generate("tikv", nil)
		f.settings.Keys = []broker.Key{newKey("tikv", "b"), newKey("other", "b")}
		f.reload()
		return f, f.tryUnwrap(g.WrappedKey)
	}},
	{broker.BackendUnavailable, codes.Unavailable, 500 * time.Millisecond, unwrapFrom(backends.Unavailable)},
	{broker.AuditUnavailable, codes.Unavailable, 500 * time.Millisecond, func(t *testing.T) (*fixture, error) {
		f := newFixture(t)
		g := f.generate("tikv", nil)
		f.closeAudit()
		return f, f.tryUnwrap(g.WrappedKey)
	}},
	{broker.BackendThrottled, codes.ResourceExhausted, time.Second, unwrapFrom(backends.Throttled)},
	{broker.RateLimited, codes.ResourceExhausted, time.Second, func(t *testing.T) (*fixture, error) {
		f := newFixture(t, func(f *fixture) { f.settings.MissRates = map[string]float64{"me": 1e-9} })
		g := f.generate("tikv", nil)
		f.kms.down(backends.Unavailable) // so that nothing is cached after the first
		f.purge()
		_ = f.tryUnwrap(g.WrappedKey)
		return f, f.tryUnwrap(g.WrappedKey)
	}},
	{broker.Deadline, codes.DeadlineExceeded, 0, func(t *testing.T) (*fixture, error) {
		f := newFixture(t, func(f *fixture) { f.options.CallTimeout = 50 * time.Millisecond })
		f.kms.hang()
		return f, f.tryGenerate("tikv")
	}},
	{broker.Internal, codes.Internal, 0, func(t *testing.T) (*fixture, error) {
		f := newFixture(t)
		f.generate("tikv", nil)
		f.random.broken.Store(true)
		return f, f.tryGenerate("tikv")
	}},
}

// unwrapFrom asks for what only a KMS can open that fails with class.
func unwrapFrom(class backends.Class) func(*testing.T) (*fixture, error) {
	return func(t *testing.T) (*fixture, error) {
		f := newFixture(t)
		g := f.generate("tikv", nil)
		f.purge()
		f.kms.down(class)
		return f, f.tryUnwrap(g.WrappedKey)
	}
}

func (f *fixture) tryGenerate(key string) error {
	_, err := f.keys.GenerateDataKey(f.t.Context(), &keybrokerv1.GenerateDataKeyRequest{KeyName: key})
	return err
}

func (f *fixture) tryUnwrap(wrapped []byte) error {
	_, err := f.keys.UnwrapKey(f.t.Context(), &keybrokerv1.UnwrapKeyRequest{WrappedKey: wrapped})
	return err
}

func TestReasons(t *testing.T) {
	for _, a := range answers {
		t.Run(string(a.reason), func(t *testing.T) {
			f, err := a.provoke(t)
			reason, retry := detailsOf(t, err)
			if reason != string(a.reason) || status.Code(err) != a.code || retry != a.retry {
				t.Fatalf("got %v with code %v and retry %v (%v); want code %v, retry %v", reason, status.Code(err), retry, err, a.code, a.retry)
			}
			if a.reason == broker.AuditUnavailable {
				return // that one cannot be recorded
			}
			if r := f.last(); r.Reason != string(a.reason) || r.Code != a.reason.Code().String() || r.Outcome == "ok" {
				t.Errorf("record %+v", r)
			}
		})
	}
}

// TestEveryReasonIsTested: the table above has what broker/reason.go declares.
func TestEveryReasonIsTested(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../reason.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]bool{}
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.CONST {
			continue
		}
		for _, spec := range gen.Specs {
			value := spec.(*ast.ValueSpec)
			if of, ok := value.Type.(*ast.Ident); !ok || of.Name != "Reason" {
				continue
			}
			text, err := strconv.Unquote(value.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			declared[text] = true
		}
	}
	if len(declared) == 0 {
		t.Fatal("no Reason was found in ../reason.go")
	}
	for _, a := range answers {
		if !declared[string(a.reason)] {
			t.Errorf("%s is tested but not declared", a.reason)
		}
		delete(declared, string(a.reason))
	}
	// No gRPC call says of which key a wrapped key must be.
	delete(declared, string(broker.WrongKey))
	for reason := range declared {
		t.Errorf("%s is not tested", reason)
	}
}

// TestMessages: whatever a message holds, the client gets it and its reason.
func TestMessages(t *testing.T) {
	for _, tc := range []struct {
		name, message string
		want          func(string) bool
	}{
		{"plain", "it is so", func(s string) bool { return s == "it is so" }},
		{"not UTF-8", "said \xff\xfe", func(s string) bool { return s == "said \ufffd" }},
		{"long", strings.Repeat("ä", 1<<20), func(s string) bool {
			return len(s) > 1000 && len(s) <= 2048 && utf8.ValidString(s) && strings.HasSuffix(s, " [cut]")
		}},
		{"lines and quotes", "a\nb\t\"%00\"", func(s string) bool { return s == "a\nb\t\"%00\"" }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			f.loadFails(errors.New(tc.message))
			_, err := f.admin.Reload(t.Context(), &keybrokerv1.ReloadRequest{})
			wantReason(t, err, broker.InvalidArgument)
			_, message, ok := strings.Cut(status.Convert(err).Message(), "was not changed: ")
			if !ok || !tc.want(message) {
				t.Errorf("message %.100q", message)
			}
		})
	}
}

// TestStatusOfFailingKMS: what a KMS says is shown as it is, if it can be.
func TestStatusOfFailingKMS(t *testing.T) {
	f := newFixture(t)
	g := f.generate("tikv", nil)
	f.purge()
	f.kms.fail.Store(backends.Errorf(backends.Unavailable, "unwrap", "a", "\xffdown: %s", strings.Repeat("x", 1<<20)))
	_ = f.tryUnwrap(g.WrappedKey)
	s, err := f.admin.GetStatus(t.Context(), &keybrokerv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	said := s.Backends[0].LastError
	if !strings.Contains(said, "\ufffddown: x") || len(said) > 2048 {
		t.Errorf("last_error is %d bytes: %.100q", len(said), said)
	}
}

// TestNoSecretInErrors: a refused plaintext is not told again.
func TestNoSecretInErrors(t *testing.T) {
	f := newFixture(t)
	dek := []byte("0123456789abcde") // too short
	_, err := f.keys.WrapKey(t.Context(), &keybrokerv1.WrapKeyRequest{KeyName: "tikv", Plaintext: dek})
	wantReason(t, err, broker.InvalidArgument)
	text, readErr := os.ReadFile(f.auditPath)
	if readErr != nil {
		t.Fatal(readErr)
	}
	if strings.Contains(err.Error(), string(dek)) || bytes.Contains(text, dek) {
		t.Error("the plaintext is in the error or in the audit log")
	}
}

// loadFails makes the next reloads fail with err.
func (f *fixture) loadFails(err error) { f.loadError.Store(&err) }

// load is what the broker reads its configuration with.
func (f *fixture) load(context.Context) (broker.Settings, error) {
	if err := f.loadError.Load(); err != nil {
		return broker.Settings{}, *err
	}
	return f.settings, nil
}

// detailsOf returns the reason and the retry delay that err tells, 0 if it tells
// none. It fails the test unless there is one ErrorInfo of the domain keybroker
// and at most one RetryInfo, and nothing else.
func detailsOf(t testing.TB, err error) (reason string, retry time.Duration) {
	t.Helper()
	s, ok := status.FromError(err)
	if !ok || err == nil {
		t.Fatalf("error %v is no gRPC status", err)
	}
	if s.Message() == "" {
		t.Errorf("a status without a message: %v", s.Proto())
	}
	retries := 0
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if reason != "" || d.Domain != "keybroker" || d.Reason == "" || len(d.Metadata) != 0 {
				t.Errorf("ErrorInfo %v", d)
			}
			reason = d.Reason
		case *errdetails.RetryInfo:
			retries++
			retry = d.RetryDelay.AsDuration()
			if retry <= 0 {
				t.Errorf("RetryInfo %v", d)
			}
		default:
			t.Errorf("detail %v", d)
		}
	}
	if reason == "" || retries > 1 {
		t.Fatalf("status %v has no ErrorInfo, or %d RetryInfos", s.Proto(), retries)
	}
	return reason, retry
}

// wantReason fails the test unless err tells this reason with the code that goes
// with it.
func wantReason(t testing.TB, err error, want broker.Reason) {
	t.Helper()
	if reason, _ := detailsOf(t, err); reason != string(want) || status.Code(err) != codes.Code(want.Code()) {
		t.Fatalf("reason %s with code %v (%v), want %s", reason, status.Code(err), err, want)
	}
}
