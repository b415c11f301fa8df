package grpcapi_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/grpcapi"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (rawCodec) Unmarshal(mem.BufferSlice, any) error { return nil }

// invoke calls a method with any bytes as its request.
func (f *fixture) invoke(ctx context.Context, method string, request []byte, opts ...grpc.CallOption) error {
	return f.conn.Invoke(ctx, method, request, new([]byte), append(opts, grpc.ForceCodecV2(rawCodec{}))...)
}

// invokeStream calls a method that streams its answer with any bytes as its
// request.
func (f *fixture) invokeStream(ctx context.Context, method string, request []byte) error {
	stream, err := f.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method, grpc.ForceCodecV2(rawCodec{}))
	if err == nil {
		err = stream.SendMsg(request)
	}
	if err == nil {
		err = stream.CloseSend()
	}
	if err == nil {
		err = stream.RecvMsg(new([]byte))
	}
	return err
}

// TestMalformed: what no handler sees is refused, and on the record.
func TestMalformed(t *testing.T) {
	garbage := []byte{0xff, 0xff, 0xff}
	for _, tc := range []struct {
		name, method string
		request      []byte
		streams      bool
		recorded     string // the method's name on the record
	}{
		{"no protobuf", keybrokerv1.KeyBroker_UnwrapKey_FullMethodName, garbage, false, "UnwrapKey"},
		{"invalid UTF-8", keybrokerv1.KeyBroker_GenerateDataKey_FullMethodName, []byte{1<<3 | 2, 1, 0xff}, false, "GenerateDataKey"},
		{"a field cut short", keybrokerv1.KeyBroker_WrapKey_FullMethodName, append([]byte{2<<3 | 2, 32}, "0123456789abcdef"...), false, "WrapKey"},
		{"admin", keybrokerv1.Admin_PurgeCache_FullMethodName, garbage, false, "PurgeCache"},
		{"stream", keybrokerv1.Admin_TailAudit_FullMethodName, garbage, true, "TailAudit"},
		{"health check", healthpb.Health_Check_FullMethodName, garbage, false, "Check"},
		{"health watch", healthpb.Health_Watch_FullMethodName, garbage, true, "Watch"},
		{"unknown method", "/keybroker.v1.KeyBroker/Guess", nil, false, "unknown"},
		{"unknown service", "/keybroker.v2.KeyBroker/UnwrapKey", nil, false, "unknown"},
		{"reflection, which was not asked for", reflectionpb.ServerReflection_ServerReflectionInfo_FullMethodName, nil, true, "unknown"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			before := len(f.records())
			call := f.invokeStream
			if !tc.streams {
				call = func(ctx context.Context, method string, request []byte) error { return f.invoke(ctx, method, request) }
			}
			wantReason(t, call(t.Context(), tc.method, tc.request), broker.InvalidArgument)
			r := f.last()
			if n := len(f.records()) - before; n != 1 || r.Event != "denied-at-the-door" || r.Reason != "INVALID_ARGUMENT" ||
				r.Client.Method != tc.recorded || r.Client.Name != "me" || r.RequestID == "" {
				t.Errorf("%d records, the last %+v", n, r)
			}
			f.generate("tikv", nil) // the service goes on
		})
	}
}

// TestTooLarge: gRPC answers a request beyond the limit by itself, and without
// reading it; the broker records it.
func TestTooLarge(t *testing.T) {
	request := make([]byte, grpcapi.MaxMessage+1)
	for _, tc := range []struct {
		name   string
		method string
		call   func(*fixture) error
	}{
		{"unary", "UnwrapKey", func(f *fixture) error {
			return f.invoke(t.Context(), keybrokerv1.KeyBroker_UnwrapKey_FullMethodName, request)
		}},
		{"stream", "TailAudit", func(f *fixture) error {
			return f.invokeStream(t.Context(), keybrokerv1.Admin_TailAudit_FullMethodName, request)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			if err := tc.call(f); status.Code(err) != codes.ResourceExhausted {
				t.Fatalf("got %v, want RESOURCE_EXHAUSTED", err)
			}
			f.awaitRecord(func(r record) bool {
				return r.Event == "denied-at-the-door" && r.Client.Method == tc.method && r.Reason == "INVALID_ARGUMENT" && strings.Contains(r.Detail, "larger than max")
			})
			f.generate("tikv", nil)
		})
	}
}

// TestMalformedByStranger: whoever is no client learns nothing of what is wrong
// with his request.
func TestMalformedByStranger(t *testing.T) {
	f := newFixture(t, withPolicy(allowAll("root", somebodyElse())))
	for _, method := range []string{keybrokerv1.KeyBroker_UnwrapKey_FullMethodName, "/no/such"} {
		wantReason(t, f.invoke(t.Context(), method, []byte{0xff}), broker.AccessDenied)
		if r := f.last(); r.Event != "denied-at-the-door" || r.Outcome != "denied" || r.Client.Name != "" {
			t.Errorf("record %+v", r)
		}
	}
}

// TestLargestRequest: a request of exactly the limit is read.
func TestLargestRequest(t *testing.T) {
	f := newFixture(t)
	const overhead = 1 + 4 // a tag, and a length of four bytes
	_, err := f.keys.UnwrapKey(t.Context(), &keybrokerv1.UnwrapKeyRequest{WrappedKey: make([]byte, grpcapi.MaxMessage-overhead)})
	wantReason(t, err, broker.InvalidEnvelope)
}

// TestUnsent: a request whose caller gave up while sending it ends as it should,
// and on the record.
func TestUnsent(t *testing.T) {
	f := newFixture(t)
	ctx, giveUp := context.WithCancel(t.Context())
	stream, err := f.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, keybrokerv1.KeyBroker_UnwrapKey_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SendMsg(&keybrokerv1.UnwrapKeyRequest{}); err != nil {
		t.Fatal(err)
	}
	giveUp() // before the half of the stream was closed
	f.awaitRecord(func(r record) bool {
		return r.Event == "denied-at-the-door" && r.Client.Method == "UnwrapKey" && r.Reason == "DEADLINE"
	})
}

// TestCompressed: a compressed request is refused on the record, before anything
// of it is decompressed, whether the program knows the compression or not.
func TestCompressed(t *testing.T) {
	f := newFixture(t)
	//nolint:staticcheck // deprecated, but it makes a client compress without registering gzip for the server as well
	zipped := f.dial(grpc.WithCompressor(grpc.NewGZIPCompressor()))
	registered := f.dial(grpc.WithDefaultCallOptions(grpc.UseCompressor(noCompression{}.Name())))
	generate := &keybrokerv1.GenerateDataKeyRequest{KeyName: "tikv"}
	for _, tc := range []struct {
		name, encoding, method string
		conn                   *grpc.ClientConn
		request                any
	}{
		{"gzip", "gzip", keybrokerv1.KeyBroker_GenerateDataKey_FullMethodName, zipped, generate},
		{"a bomb", "gzip", keybrokerv1.KeyBroker_UnwrapKey_FullMethodName, zipped, &keybrokerv1.UnwrapKeyRequest{WrappedKey: make([]byte, 64<<20)}},
		{"registered", "none-at-all", keybrokerv1.KeyBroker_GenerateDataKey_FullMethodName, registered, generate},
		{"health", "gzip", healthpb.Health_Check_FullMethodName, zipped, &healthpb.HealthCheckRequest{Service: "tikv"}},
		{"stream", "gzip", healthpb.Health_Watch_FullMethodName, zipped, &healthpb.HealthCheckRequest{Service: "tikv"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := len(f.records())
			err := tc.conn.Invoke(t.Context(), tc.method, tc.request, &emptypb.Empty{})
			wantReason(t, err, broker.InvalidArgument)
			if !strings.Contains(err.Error(), tc.encoding) {
				t.Errorf("the error does not name the compression: %v", err)
			}
			if n := len(f.records()) - before; n != 1 || f.last().Event != "denied-at-the-door" {
				t.Errorf("%d records, the last %+v", n, f.last())
			}
		})
	}
	t.Run("identity", func(t *testing.T) {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "grpc-accept-encoding", "gzip")
		if _, err := f.keys.GenerateDataKey(ctx, generate, grpc.UseCompressor(encoding.Identity)); err != nil {
			t.Error(err)
		}
	})
}

// noCompression is a compressor that some package of the program might register.
type noCompression struct{}

func (noCompression) Name() string { return "none-at-all" }

func (noCompression) Compress(w io.Writer) (io.WriteCloser, error) { return nopCloser{w}, nil }

func (noCompression) Decompress(io.Reader) (io.Reader, error) {
	panic("something was decompressed")
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// TestHeadersBeyondTheLimit: they end the call and nothing else.
func TestHeadersBeyondTheLimit(t *testing.T) {
	f := newFixture(t)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x", strings.Repeat("x", 17<<10))
	_, err := f.keys.ListKeys(ctx, &keybrokerv1.ListKeysRequest{})
	if err == nil {
		t.Fatal("a call with 17 KiB of headers was answered")
	}
	f.generate("tikv", nil)
}

// TestStreamsBeyondTheLimit: a connection has at most so many calls under way;
// another one is not concerned.
func TestStreamsBeyondTheLimit(t *testing.T) {
	f := newFixture(t)
	const maxStreams = 256
	for range maxStreams {
		stream, err := f.health.Watch(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan error, 1)
	go func() {
		_, err := f.keys.ListKeys(ctx, &keybrokerv1.ListKeysRequest{})
		waited <- err
	}()
	other := keybrokerv1.NewKeyBrokerClient(f.dial())
	if _, err := other.ListKeys(t.Context(), &keybrokerv1.ListKeysRequest{}); err != nil {
		t.Errorf("another connection: %v", err)
	}
	cancel()
	if err := <-waited; status.Code(err) != codes.Canceled {
		t.Errorf("one call more than the limit: %v, want that it waits until it is given up", err)
	}
}

// TestNotHTTP2: a peer that speaks something else is let go.
func TestNotHTTP2(t *testing.T) {
	f := newFixture(t)
	conn, err := net.Dial("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"+strings.Repeat("x", 1<<10)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); err != nil && !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the connection was not closed: %v", err)
	}
	f.generate("tikv", nil)
}

// TestReflection: it is there if it is asked for.
func TestReflection(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.config.Reflection = true })
	before := len(f.records())
	stream, err := reflectionpb.NewServerReflectionClient(f.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	r, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range r.GetListServicesResponse().GetService() {
		names = append(names, s.Name)
	}
	if all := strings.Join(names, " "); !strings.Contains(all, "keybroker.v1.KeyBroker") || !strings.Contains(all, "keybroker.v1.Admin") {
		t.Errorf("services %v", names)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the end: %v", err)
	}
	if n := len(f.records()) - before; n != 0 {
		t.Errorf("%d records of a reflection that ended well", n)
	}
}

// awaitRecord waits for a record that the caller of what it is about does not
// wait for.
func (f *fixture) awaitRecord(is func(record) bool) {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.t.Context())
	defer cancel()
	found := errors.New("found")
	err := f.auditLog.Tail(ctx, 1, true, func(_ uint64, line []byte) error {
		if is(parse(f.t, line)) {
			return found
		}
		return nil
	})
	if !errors.Is(err, found) {
		f.t.Errorf("the record did not come: %v", err)
	}
}
